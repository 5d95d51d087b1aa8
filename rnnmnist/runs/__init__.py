"""The files of a run: checkpoints, the log and results."""
