"""Vectors kept on disk, so that nothing is embedded twice."""
