"""The report page of a run: data, plots and HTML."""
