"""metrics of scivae."""
