"""tl of scivae."""
