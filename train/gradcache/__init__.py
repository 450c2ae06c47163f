"""Gradient caching: a batch larger than memory, chunk by chunk, with the gradient of one step."""
