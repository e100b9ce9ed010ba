"""Losses, calibration of the spread, and the resumable loop."""
