"""Encoders -> evidence: untuned and tuned systems on the same data, with intervals, in one report."""
