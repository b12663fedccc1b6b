"""geometry of scivae."""
