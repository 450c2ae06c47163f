"""`dec2vec compare`: several reports side by side."""
