"""Exports that are broken on purpose."""
