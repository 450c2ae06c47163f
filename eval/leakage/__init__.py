"""Training-side text, and how much of it occurs in the evaluation sets."""
