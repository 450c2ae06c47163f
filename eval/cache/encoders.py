"""The encoders of an evaluation, one in memory at a time, with their vectors kept where the configuration says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dec2vec.config.model import ModelConfig
from eval.cache.cost import Cost
from eval.cache.vector_cache import VectorCache
from eval.config import EvalConfig
from eval.systems.system import TextEncoder, run_name, start_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Encoders:
    """From memory where they are given, from disk otherwise."""

    config: EvalConfig
    base: TextEncoder | None = None
    tuned: Mapping[str, TextEncoder] | None = None
    cache: VectorCache | None = None
    _passes: dict[str, Counter[str]] = field(default_factory=dict)
    _costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    """Where a tuned run reads texts otherwise than the untuned rows."""

    @property
    def passes(self) -> dict[str, dict[str, int]]:
        """Texts that went through a decoder, by encoder and prompt; of encoders whose vectors are kept."""
        return {name: dict(counts) for name, counts in self._passes.items()}

    @property
    def costs(self) -> dict[str, Cost]:
        """What that took, by encoder and prompt."""
        return {f"{name}: {prompt}": cost for name, costs in self._costs.items() for prompt, cost in costs.items()}

    @property
    def tuned_names(self) -> list[str]:
        """Of the tuned encoders, none of which is loaded for it."""
        return list(self.tuned) if self.tuned is not None else list(map(run_name, self.config.tuned))

    def each_tuned(self) -> Iterator[tuple[str, TextEncoder]]:
        """By name."""
        if self.tuned is not None:
            yield from self.tuned.items()
            return
        for path in self.config.tuned:
            config = replace(self.config.model, name_or_path=path, revision=None, adapter=None)
            name = run_name(path)
            encoder = self._load(f"tuned/{name}", config)
            for line in _unlike(path, encoder.config, self.config.model):
                logger.warning("%s", line)
                self.warnings.append(f"Warning: {line}.")
            yield name, encoder

    def untuned(self, model: ModelConfig | None = None) -> TextEncoder:
        """The base, read as `model` says (default: as the configuration does)."""
        if self.base is not None:
            return self.base
        return self._load(start_of(self.config.model), self.config.model if model is None else model)

    def _load(self, name: str, config: ModelConfig) -> TextEncoder:
        from dec2vec.encoder import Encoder
        from dec2vec.fingerprint import fingerprint

        encoder = Encoder.load(config)
        if self.cache is None or not isinstance(encoder, Encoder):
            return encoder
        cached = self.cache.of(encoder, fingerprint(encoder))
        cached.passes = self._passes.setdefault(name, cached.passes)  # counted on when it is loaded again
        cached.costs = self._costs.setdefault(name, cached.costs)
        return cached


def cache_folder(config: EvalConfig) -> Path | None:
    """`cache`, or a folder next to the report; None where nothing is to be kept."""
    if config.cache is None:
        return Path(config.output_dir) / "vectors"
    return Path(config.cache) if config.cache else None


def _unlike(path: str, tuned: ModelConfig, untuned: ModelConfig) -> Iterator[str]:
    """A line for each option in which a tuned run, read as it was trained, differs from the untuned rows."""
    from dec2vec.decoder.positions import known_max_length

    untuned = replace(untuned, max_length=known_max_length(untuned))
    for option in ("max_length", "text_normalization", "dtype"):
        mine, other = vars(tuned)[option], vars(untuned)[option]
        if mine != other:
            yield f"{path}: {option} is {mine}, but {other} for the untuned rows; use model.{option} {mine}"
