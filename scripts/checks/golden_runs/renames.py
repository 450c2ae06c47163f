"""How options of the old tree are called in the present one, by verb.

An option in one of these tables may still have its old name: the comparison holds before, while and after it is
renamed. Whatever else changes on a help page is a difference.
"""

from __future__ import annotations

RENAMED: dict[str, dict[str, str]] = {
    "train": {
        "lora.whole": "lora.modules_to_save",
        "lora.fast": "lora.fused",
        "eval.fit_sentences": "eval.whitening_sentences",
        "distributed.check_every": "distributed.compare_every",
        "mining.from_rank": "mining.min_rank",
        "mining.to_rank": "mining.max_rank",
    },
    "eval": {"fit_sentences": "whitening_sentences"},
    "mine": {"from_rank": "min_rank", "to_rank": "max_rank"},
}
"""Old name -> new name."""

VALUES: dict[str, dict[str, str]] = {
    "batch.sources": {"one": "single"},
    "checkpoint.resume": {"never": "fresh"},
}
"""Of an option: old word -> new word."""

PRIVATE: dict[str, set[str]] = {
    "train": {
        "loss.tiles",
        "data.N.losses.N.tiles",
        "batch.prefetch",
        "batch.parallel_chunks",
        "batch.flush_denormals",
        "batch.cache_tokens",
        "loss.gather",
        "data.N.losses.N.gather",
        "loss.angle_temperature",
        "data.N.losses.N.angle_temperature",
        "optim.max_bad_steps",
        "tracking.entity",
        "tracking.name",
    },
}
"""Options that users no longer have."""

CHANGED: dict[str, set[str]] = {"export": {"run"}}
"""Options with another default: `export` never worked without a run, and now its help says so."""

ADDED: dict[str, set[str]] = {}
"""Options that the old tree did not have."""
