"""The files of a run: checkpoints, log and results."""
