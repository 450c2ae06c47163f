"""A grid of training runs, one after another, chosen from on dev."""
