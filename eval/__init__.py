"""Encoders -> evidence, the evaluating part of dec2vec: untuned and tuned systems on the same data, in one report."""
