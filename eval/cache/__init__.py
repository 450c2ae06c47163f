"""Vectors kept on disk, and encoders loaded one at a time."""
