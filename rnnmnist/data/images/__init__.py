"""Images: prepared once through TFDS, and read as plain arrays."""
