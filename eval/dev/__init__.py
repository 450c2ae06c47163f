"""The tasks by which training chooses its checkpoint."""
