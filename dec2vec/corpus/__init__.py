"""Corpora larger than memory: streamed texts, sharded vectors, and searches among them. One idea a file."""
