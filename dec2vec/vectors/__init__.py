"""Linear maps on finished vectors."""
