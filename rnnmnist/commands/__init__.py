"""The commands: the flags of each, and what it prints."""
