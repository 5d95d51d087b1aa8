"""The training loop, its step, optimizer and state, and resuming."""
