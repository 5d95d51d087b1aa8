"""The classifier, its recurrences and its parameters."""
