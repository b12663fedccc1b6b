"""datasets of scivae."""
