"""Images as inputs: untrusted files are opened within bounds, and equal images are read once."""
