"""Devices, processes, signals, compilation, ensembles, random streams, the machine."""
