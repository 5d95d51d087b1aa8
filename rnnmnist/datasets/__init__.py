"""The data sets as TFDS knows them; `rnnmnist.data` turns them into arrays."""
