"""The formats of users' sequence files: one module for each, and what they share."""
