"""The steps of a run, from first to last: its batches and chunks, and beforehand what they take in memory and time."""
