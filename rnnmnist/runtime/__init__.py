"""The environment of a process: devices, other processes, programs, versions, files."""
