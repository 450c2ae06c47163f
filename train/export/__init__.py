"""Verb export: adapter, sentence-transformers folder, model card, and the Hub."""
