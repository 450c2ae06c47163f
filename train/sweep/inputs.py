"""Which files a sweep's runs read, and what is in them: scores on other data don't belong into one table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dec2vec.files import sha256_file
from train.config import TrainConfig


def inputs_of(config: TrainConfig) -> tuple[str, ...]:
    """What a run learns from, and what it is chosen on, as the configuration names it."""
    dev = () if config.eval.dev is None else (config.eval.dev,)
    return tuple(dict.fromkeys([*(source.path for source in config.data), *dev]))


def hash_inputs(names: Iterable[str]) -> dict[str, str]:
    """sha256 of the bytes of those that are files or folders here; the Hub is not asked, and the trainer complains."""
    found = {}
    for name in dict.fromkeys(names):
        place = next((path for path in (Path(name), Path(name.partition("@")[0])) if name and path.exists()), None)
        if place is not None:
            found[name] = _hash(place)
    return found


def _hash(place: Path) -> str:
    if place.is_file():
        return sha256_file(place)
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
