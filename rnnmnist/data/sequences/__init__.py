"""Sequences of users: a reader for each format, and one validated type."""
