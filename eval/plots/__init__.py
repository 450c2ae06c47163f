"""Pictures of a report as PNG bytes."""
