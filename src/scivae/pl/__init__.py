"""pl of scivae."""
