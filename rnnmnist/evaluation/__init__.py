"""Trained networks, their predictions and scores over whole splits."""
