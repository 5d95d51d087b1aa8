"""Predictions, metrics and calibration of trained networks."""
