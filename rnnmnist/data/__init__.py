"""Data sets as arrays, augmentation, shuffling, random streams, and the batches."""
