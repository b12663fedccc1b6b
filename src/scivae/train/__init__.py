"""Training: plan, engines, device data, checkpoints, calibration."""
