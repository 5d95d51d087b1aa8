"""Data sets as arrays, augmentation, shuffling, and the batches."""
