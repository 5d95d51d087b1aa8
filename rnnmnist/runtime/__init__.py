"""Devices, processes, signals, compilation, ensembles, and the machine."""
