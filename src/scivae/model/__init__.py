"""model of scivae."""
