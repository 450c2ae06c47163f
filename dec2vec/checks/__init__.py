"""`dec2vec check`: what is wrong with a model as an embedder, one idea a file."""
