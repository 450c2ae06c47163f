"""From the embeddings of a batch to a loss and its gradient."""
