"""The decoder: load it, run it, pool its hidden states."""
