"""Prediction for image files: preprocessing, classification, terminal output."""
