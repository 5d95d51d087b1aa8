"""Exports trained networks to other runtimes, and compares their predictions."""
