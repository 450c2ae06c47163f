"""A case: what is made in each tree, kept as JSON, and how the two are compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden_runs.trees import DEMO, Failed, Tree, git

Facts = dict[str, Any]
"""Plain JSON."""
TIMED = {
    "pairs_per_second",
    "tokens_per_second",
    "memory_mib",
    "rank_seconds_median",
    "rank_seconds_max",
    "slowest_rank",
}
"""Metrics of a step that differ from run to run."""


@dataclass(frozen=True)
class Finding:
    """One comparison. `difference` is empty when both trees agree."""

    what: str
    figure: str
    difference: str = ""

    def __str__(self) -> str:
        verdict = f"DIFFERENT  {self.difference}" if self.difference else f"ok  {self.figure}"
        return f"{self.what:<44} {verdict}"


@dataclass(frozen=True)
class Side:
    """One of the two trees, and where its results go."""

    tree: Tree
    folder: Path
    old: Path
    """The folder of the old side, whose runs both trees read."""
    inputs: Path
    """The decoder and the texts that both trees read; commands run here."""

    @property
    def is_old(self) -> bool:
        return self.folder == self.old


@dataclass(frozen=True)
class Case:
    """`produce` fills a folder with a tree's results and returns the facts that `compare` gets, the old ones first."""

    name: str
    produce: Callable[[Side, Path], Facts]
    compare: Callable[[Facts, Facts], Iterable[Finding]]

    def is_kept(self, folder: Path) -> bool:
        """Whether a side's folder holds this case's facts already."""
        return (folder / self.name / "facts.json").exists()

    def facts(self, side: Side) -> Facts:
        """The facts of one tree, made only where they are not kept."""
        folder = side.folder / self.name
        kept = folder / "facts.json"
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            kept.write_text(json.dumps(self.produce(side, folder)), encoding="utf-8")
        facts: Facts = json.loads(kept.read_text(encoding="utf-8"))
        return facts

    def findings(self, old: Facts, new: Side) -> Iterator[Finding]:
        """What the present tree makes of this case, compared; a command of it that fails is a difference."""
        try:
            facts = self.facts(new)
        except Failed as error:
            yield Finding(self.name, "", f"the present tree fails: {error}")
            return
        yield from self.compare(old, facts)


def write_inputs(root: Path, revision: str, folder: Path) -> None:
    """The demo decoder and texts of `revision`, and some files in other layouts made of these texts."""
    done = folder / "done"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for name in git(root, "ls-tree", "-r", "--name-only", revision, f"{DEMO}/").decode().split():
        path = folder / Path(name).relative_to(DEMO)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(git(root, "show", f"{revision}:{name}"))
    _write_layouts(folder)
    done.touch()


def _write_layouts(folder: Path) -> None:
    pairs = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    labelled = [{"text": row["anchor"], "label": f"class {number % 6}"} for number, row in enumerate(pairs[:240])]
    _write_jsonl(folder / "labelled.jsonl", labelled[:160])
    _write_jsonl(folder / "labelled-test.jsonl", labelled[160:])
    texts = [row[side] for row in pairs[300:330] for side in ("anchor", "positive")]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    (folder / "collection").mkdir()
    numbered = list(enumerate(pairs[400:480]))
    _write_jsonl(folder / "collection/corpus.jsonl", [{"_id": f"d{n}", "text": row["positive"]} for n, row in numbered])
    _write_jsonl(folder / "collection/queries.jsonl", [{"_id": f"q{n}", "text": row["anchor"]} for n, row in numbered])
    relevant = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n, _ in numbered]
    _write_jsonl(folder / "collection/qrels.jsonl", relevant)


def _write_jsonl(path: Path, rows: Sequence[Facts]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> list[Facts]:
    """Every line of a file as an object."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics(run: Path) -> list[Facts]:
    """The lines of metrics.jsonl without times and memory."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read_jsonl(run / "metrics.jsonl")]


def weights_digest(file: Path) -> str:
    """sha256 of the names and values in a safetensors file."""
    from safetensors.numpy import load_file

    found = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()


def lines_differ(what: str, old: Sequence[Facts], new: Sequence[Facts]) -> str:
    """The first line and key in which two lists of objects differ; empty when all are equal. New keys may come."""
    if len(old) != len(new):
        return f"{len(old)} {what}s were {len(new)}"
    for number, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        for key, value in before.items():
            if key not in after:
                return f"{what} {number} lacks {key}"
            if after[key] != value:
                return f"{what} {number}: {key} {value} is now {after[key]}"
    return ""
