"""The drawing page: Python code that renders it, and its JavaScript and CSS."""
