"""`dec2vec score`: pairs of texts -> cosine and usable yes or no."""
