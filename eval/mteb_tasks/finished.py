"""Which MTEB tasks an encoder has finished, so that an evaluation that is repeated does not compute them again.

mteb keeps results by the name of a model, under which another encoder may stand tomorrow. Beside its results a file
for each encoder, called by a digest of all that its vectors depend on, has the finished tasks and how many texts of
each were cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, why_not_written
from eval.cache.vector_cache import CachedEncoder
from eval.systems.system import TextEncoder

Cut = tuple[int, int]
"""Different texts that were read, and those of them that were cut."""


@dataclass(frozen=True)
class Finished:
    """The tasks that an encoder has finished. Without a `path` nothing is known and nothing is written."""

    path: Path | None = None
    cuts: dict[str, Cut] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    """The main score of each task: another encoder of the same name and revision may have overwritten the result."""

    @classmethod
    def read(cls, output: Path, digest: str | None) -> Finished:
        """What an earlier evaluation wrote; a file that is no JSON counts as none."""
        if digest is None:
            return cls()
        path = output / "finished" / f"{digest[:40]}.json"
        try:
            found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rows = {name: (int(read), int(cut), float(score)) for name, (read, cut, score) in found.items()}
            cuts = {name: (read, cut) for name, (read, cut, _) in rows.items()}
            return cls(path, cuts, {name: score for name, (_, _, score) in rows.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(path)

    def add(self, task: str, cut: Cut, score: float) -> None:
        """Write down that `task` is finished. UserError if it cannot be written."""
        self.cuts[task], self.scores[task] = cut, score
        if self.path is None:
            return
        try:
            rows = {name: (*self.cuts[name], self.scores[name]) for name in self.cuts}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(self.path, json.dumps(rows, indent=1).encode())
        except OSError as error:
            raise UserError(f"{self.path}: can't be written; {why_not_written(error)}") from error


def digest_of(encoder: TextEncoder, prompts: Mapping[str, str]) -> str | None:
    """A digest of weights, tokenizer, reading, whitening and prompts; None for an encoder that has no fingerprint."""
    from dec2vec.encoder import Encoder
    from dec2vec.fingerprint import fingerprint

    behind = encoder.behind if isinstance(encoder, CachedEncoder) else encoder
    if not isinstance(behind, Encoder):
        return None
    digest = hashlib.sha256(fingerprint(behind).encode())
    reading = [behind.config.prompt_name, str(behind.view), sorted(prompts.items())]
    digest.update(json.dumps(reading).encode("utf-8", "surrogatepass"))
    whitening = behind.whitening
    for part in () if whitening is None else (whitening.mean, whitening.kernel):
        digest.update(part.tobytes())
    return digest.hexdigest()
