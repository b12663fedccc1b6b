"""module of scivae."""
