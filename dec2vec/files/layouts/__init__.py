"""Rows of other trainers' files, recognised by their columns and read as flat rows: one file a family of layouts."""
