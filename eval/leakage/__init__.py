"""Training-side text, and how much of it stands in the evaluation sets."""
