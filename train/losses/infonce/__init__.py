"""InfoNCE: the plain reference, the tiled fast path, and what both score."""
