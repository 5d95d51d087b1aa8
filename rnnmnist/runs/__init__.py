"""Saves, restores, selects and verifies checkpoints."""
