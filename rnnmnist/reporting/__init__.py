"""The report of a run: plots, sections and pages."""
