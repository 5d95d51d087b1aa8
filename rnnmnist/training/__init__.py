"""Training: loop, step, optimizer, state, and resuming."""
