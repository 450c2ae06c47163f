"""Options that were renamed or removed.

A former name that a user types, or writes into a configuration file, is refused with the present one. In the
`config.yaml` of an existing run folder it is translated, and a configuration is hashed with the former names, so that
the runs, exports and checkpoints of earlier versions stay usable.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RENAMED = {
    "lora.whole": "lora.modules_to_save",
    "lora.fast": "lora.fused",
    "mining.from_rank": "mining.min_rank",
    "mining.to_rank": "mining.max_rank",
    "distributed.check_every": "distributed.compare_every",
    "eval.fit_sentences": "eval.whitening_sentences",
    "fit_sentences": "whitening_sentences",
    "from_rank": "min_rank",
    "to_rank": "max_rank",
}
"""Former name -> present name. Names without a section are those of `dec2vec eval` and `dec2vec mine`."""
RENAMED_VALUES = {
    "batch.sources": {"one": "single"},
    "checkpoint.resume": {"never": "fresh"},
}
"""Option -> former value -> present value."""
_TILES = "InfoNCE is always computed in tiles"
_GATHER = "negatives always come from all processes"
_ANGLE = "AnglE's angle loss is always divided by 1, as published"
REMOVED = {
    "loss.tiles": _TILES,
    "data.N.losses.N.tiles": _TILES,
    "loss.gather": _GATHER,
    "data.N.losses.N.gather": _GATHER,
    "loss.angle_temperature": _ANGLE,
    "data.N.losses.N.angle_temperature": _ANGLE,
    "optim.max_bad_steps": "a run always stops after 5 consecutive steps without a finite gradient",
    "batch.prefetch": "the next batch is always prepared during the current step",
    "batch.cache_tokens": "token ids are kept on disk whenever that is faster",
    "batch.parallel_chunks": "chunks run in parallel on CPUs whenever the gradient stays the same",
    "batch.flush_denormals": "denormal numbers are always treated as zero during a step",
    "tracking.entity": "write tracking.project ENTITY/PROJECT",
    "tracking.name": "a W&B run has the name of the run folder; set WANDB_NAME for another",
}
"""Former option -> why it is gone, or what replaces it."""
_HASHED = {
    "loss.tiles": True,
    "data.N.losses.N.tiles": True,
    "loss.gather": True,
    "data.N.losses.N.gather": True,
    "loss.angle_temperature": 1.0,
    "data.N.losses.N.angle_temperature": 1.0,
    "optim.max_bad_steps": 5,
    "batch.prefetch": True,
    "batch.parallel_chunks": True,
    "batch.flush_denormals": True,
}
"""Removed options that are part of a checkpoint's hash, with the value that is now the only one."""
_LATER: dict[str, object] = {
    "model.adapter": None,
    "model.max_pixels": 64_000_000,
    "data.N.revision": None,
    "data.N.corpus": None,
    "data.N.queries": None,
    "data.N.min_grade": 1,
    "data.N.bad_rows": 0.01,
    "loss.projection": "drop",
    "data.N.losses.N.projection": "drop",
    "eval.metric": None,
    "eval.patience": None,
    **{f"{place}.positives": "each" for place in ("loss", "data.N.losses.N")},
    **{f"{place}.score_scale": "logit" for place in ("loss", "data.N.losses.N")},
    **{f"{place}.score_temperature": 1.0 for place in ("loss", "data.N.losses.N")},
    "systems.shortlist": {"prompts": None, "layers": ()},
    "baseline_notes": (),
    "mteb_prompts": (),
}
"""Options that earlier versions did not have, with the value at which they change nothing."""
_FORMER_DEFAULTS = {"max_length": 512, "pooling": "last", "prompt": "bare", "tokenization": "joint"}
"""Options of `model` where they were not given, before their defaults depended on the decoder."""
_RUN_PARTS = (".lock", "checkpoints", "adapter", "model", "metrics.jsonl")


def why_refused(name: str, options: Collection[str]) -> str | None:
    """Why the configuration with these `options` does not have `name` any more; None if it never had it."""
    pattern = re.sub(r"\.\d+(?=\.|$)", ".N", name)
    if RENAMED.get(pattern) in options:
        return f"is now called {RENAMED[pattern]}"
    section, dot, _ = pattern.rpartition(".")
    if pattern in REMOVED and any(option.startswith(section + dot) for option in options):
        return f"is no longer an option; {REMOVED[pattern]}"
    return None


def renamed_value(name: str, value: object) -> str | None:
    """The present name of a former value of option `name`."""
    return RENAMED_VALUES.get(name, {}).get(value) if isinstance(value, str) else None


def is_run_config(path: Path) -> bool:
    """Whether `path` is the `config.yaml` that a run wrote into its folder."""
    return path.name == "config.yaml" and any((path.parent / part).exists() for part in _RUN_PARTS)


def translated(tree: Mapping[str, object]) -> dict[str, object]:
    """A copy of a run's `config.yaml` with the present names, values and options, and without removed ones."""
    new = copy.deepcopy(dict(tree))
    for section in _sections(new, ["tracking"]):
        if section.get("entity"):
            section["project"] = f"{section['entity']}/{section.get('project', 'dec2vec')}"
    for former, present in RENAMED.items():
        _rename(new, former, present)
    for option, values in RENAMED_VALUES.items():
        _rename_values(new, option, values)
    for option in REMOVED:
        *path, key = option.split(".")
        for section in _sections(new, path):
            section.pop(key, None)
    for option, default in _LATER.items():
        *path, key = option.split(".")
        for section in _sections(new, path) if path else ():  # options without a section are those of an evaluation
            section.setdefault(key, default)
    return new


def former(tree: dict[str, object]) -> dict[str, object]:
    """A copy of a configuration with the names, values and removed options that earlier versions hashed."""
    old = copy.deepcopy(tree)
    for name, present in RENAMED.items():
        _rename(old, present, name)
    for option, values in RENAMED_VALUES.items():
        _rename_values(old, option, {present: name for name, present in values.items()})
    for option, value in _HASHED.items():
        *path, key = option.split(".")
        for section in _sections(old, path):
            section[key] = value
    for option, default in _LATER.items():
        *path, key = option.split(".")
        for section in _sections(old, path):
            if key in section and section[key] == default:
                del section[key]
    for section in _sections(old, ["model"]):
        section.update({name: value for name, value in _FORMER_DEFAULTS.items() if section.get(name, value) is None})
    return old


def _rename(tree: dict[str, object], name: str, new_name: str) -> None:
    *path, key = name.split(".")
    for section in _sections(tree, path):
        if key in section:
            section[new_name.rpartition(".")[2]] = section.pop(key)


def _rename_values(tree: dict[str, object], option: str, values: Mapping[str, str]) -> None:
    *path, key = option.split(".")
    for section in _sections(tree, path):
        value = section.get(key)
        if isinstance(value, str):
            section[key] = values.get(value, value)


def _sections(tree: object, path: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The mappings at a path, in which N stands for every item of a list."""
    if not path:
        if isinstance(tree, dict):
            yield tree
    elif path[0] == "N":
        for item in tree if isinstance(tree, (list, tuple)) else ():
            yield from _sections(item, path[1:])
    elif isinstance(tree, dict):
        yield from _sections(tree.get(path[0]), path[1:])
