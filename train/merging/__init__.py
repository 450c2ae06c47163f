"""One model from the weights of several runs."""
