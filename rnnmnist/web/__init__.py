"""The drawing page: the Python code that renders it, JavaScript and CSS."""
