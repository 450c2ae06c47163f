"""Runs of two trees of this project on one machine, and what differs between them."""
