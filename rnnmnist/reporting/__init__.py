"""Report pages: run data, plots, sections and HTML."""
