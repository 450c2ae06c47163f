"""Losses of sentence-transformers by name: plain, cached:MINI_BATCH or tokens:BUDGET."""

from __future__ import annotations

DEFAULT = "cached:32"
LOSSES = (
    DEFAULT,
    *(f"cached:{size}" for size in (16, 64, 128, 256)),
    *(f"tokens:{n}" for n in (1024, 4096, 16_384)),
    "plain",
)
"""What `st-best` chooses from: mini-batches, token budgets, and the loss without a cache."""
