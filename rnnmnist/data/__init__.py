"""Data sets as arrays, augmentation, shuffling, and the batches drawn from them."""
