"""From files to batches: rows, their order, and the token ids of a step."""
