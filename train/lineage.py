"""What a run was made from, so that W&B shows data and base beside the adapter: names and digests, no contents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.config import TrainConfig
from train.export.save import shown_name


@dataclass(frozen=True)
class Input:
    """One thing the run read. `facts` are plain JSON; equal facts are the same thing."""

    name: str
    kind: str
    facts: dict[str, object]


def describe_inputs(config: TrainConfig, rows: int, sha256: str) -> list[Input]:
    """The training data, by the digest of its texts, and the decoder. No path of this machine is written."""
    sources = [Path(source.path).name if Path(source.path).exists() else source.path for source in config.data]
    data = Input(f"data-{sha256[:12]}", "dataset", {"sources": sources, "rows": rows, "sha256": sha256})
    name, revision = shown_name(config.model.name_or_path), config.model.revision
    return [data, Input(f"base-{name}", "base-model", {"name": name, "revision": revision})]
