"""Prediction for image files and sequences: preprocessing, classification, output."""
