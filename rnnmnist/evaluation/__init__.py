"""Counts over whole splits, and what follows from them."""
