"""What survives a kill: checkpoints, the run folder and its lock, signals."""
