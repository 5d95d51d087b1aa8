"""User sequences: a reader for each format, and one validated representation."""
