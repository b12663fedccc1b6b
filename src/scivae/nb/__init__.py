"""The fused negative binomial: one operation, two backends."""
