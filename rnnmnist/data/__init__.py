"""Loading, augmentation, shuffling and batching of data sets."""
