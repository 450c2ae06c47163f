"""InfoNCE: the plain reference, the tiled fast path, and its candidates."""
