"""Verbs for large collections of texts: encode, index, search, dedup and outliers."""
