"""The report of a run: metrics, plots and an HTML page."""
