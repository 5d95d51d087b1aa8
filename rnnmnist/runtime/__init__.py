"""Devices, processes, signals, compilation, random streams and machine details."""
