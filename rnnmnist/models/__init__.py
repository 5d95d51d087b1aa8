"""The classifier, its recurrence and its parameters."""
