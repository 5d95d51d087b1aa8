"""Saving, restoring, choosing and verifying checkpoints."""
