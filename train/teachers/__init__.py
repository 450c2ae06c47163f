"""Teachers of distillation: their vectors of the training texts, kept on disk."""
