"""Teachers of distillation and their vectors of the training texts."""
