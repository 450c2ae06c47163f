"""The evidence as data, and as report.json, report.md and report.html."""
