"""Report pages: their data, plots and HTML."""
