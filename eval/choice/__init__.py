"""Choices of layer, pooling and strength, on dev alone."""
