"""The drawing page: its JavaScript and CSS, and the Python code that renders it."""
