"""Devices, processes, compilation, the ensemble axis, random streams, the machine."""
