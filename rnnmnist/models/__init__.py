"""The classifier, its recurrent layers and its parameters."""
