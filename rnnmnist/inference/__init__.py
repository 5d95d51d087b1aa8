"""Prediction for images of digits: reading, preprocessing, classification."""
