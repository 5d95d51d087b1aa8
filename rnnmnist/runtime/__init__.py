"""Devices and processes, the ensemble axis, random streams, versions, the workdir."""
