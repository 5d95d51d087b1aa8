"""Data sets as arrays, and the batches that are drawn from them."""
