"""rnnmnist: an LSTM reads MNIST images row by row and says which digit it read."""
