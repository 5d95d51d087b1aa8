"""The command-line interface: the flags and the output of each command."""
