"""What a process runs on: devices, processes, compiled programs, versions, files."""
