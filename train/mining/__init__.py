"""Hard negatives for training pairs, found by searching a corpus."""
