"""Pairs -> adapter: the training part of dec2vec, from files of texts to an exported embedder."""
