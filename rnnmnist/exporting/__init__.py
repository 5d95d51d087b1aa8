"""Exports of trained networks for other runtimes, compared with the networks."""
