"""Predictions and metrics over whole splits, and result files."""
