"""Figures of arrays, and their resamples: no file, no model, no task."""
