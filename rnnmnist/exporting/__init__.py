"""Exports trained networks to other runtimes, and compares the predictions."""
