"""Sequences of users: a reader for each format, and one checked type."""
