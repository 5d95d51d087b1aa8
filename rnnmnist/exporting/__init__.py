"""Exports of trained networks for other runtimes, with certificates."""
