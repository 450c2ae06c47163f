"""What is written around a text, and its token ids."""
