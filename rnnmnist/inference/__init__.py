"""Reads, preprocesses and classifies images of digits."""
