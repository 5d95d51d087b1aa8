"""Exports trained networks to other runtimes, and checks the exported predictions."""
