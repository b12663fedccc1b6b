"""The fused negative binomial: one operation with three backends (torch, compiled loops, Triton)."""
