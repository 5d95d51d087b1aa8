"""From an image file to a prediction."""
