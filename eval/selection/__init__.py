"""Choices on dev: prompt, layer and post-processing."""
