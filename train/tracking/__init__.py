"""Metrics of a run: the file, W&B, TensorBoard and the terminal."""
