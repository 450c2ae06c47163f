"""`dec2vec check`: find what is wrong with an embedding model. Each file holds one check or two related ones."""
