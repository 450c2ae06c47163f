"""Training-side text: what whitening is fitted on, and what overlap is measured against."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dec2vec.config_yaml import read_mapping
from dec2vec.errors import UserError
from dec2vec.readers import Table, read_table, read_texts
from eval.overlap import normalized
from eval.tasks.sts import StsTask

_TEXT_COLUMN = re.compile(r"anchor|positive|negative(_\d+)?|text|sentence[12]|query|document")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitText:
    """The sample that whitening is fitted on. `dropped` texts stand in an evaluation file: left out."""

    sentences: list[str]
    dropped: int
    sha256: str


def read_training_texts(path: str, columns: Sequence[str] = ()) -> list[str]:
    """Distinct texts of a .txt or of a table's text columns, in order."""
    if Path(path).suffix == ".txt":
        return list(dict.fromkeys(text for text in read_texts(Path(path)) if text.strip()))
    table = read_table(path, columns)
    wanted = list(columns) or [column for column in table.columns if _TEXT_COLUMN.fullmatch(column)]
    if not wanted:
        raise UserError(f"{path}: no column of texts (anchor, positive, text, sentence1 ...) among {table.columns}")
    return list(dict.fromkeys(text for column in wanted for text in _cells(table, column)))


def _cells(table: Table, column: str) -> Iterable[str]:
    return (value for row in table.rows if isinstance(value := row.get(column), str) and value.strip())


def sample_fit_text(sources: Mapping[str, Sequence[str]], tasks: Iterable[StsTask], count: int, seed: int) -> FitText:
    """A seeded sample without evaluation texts: a fit on scored sentences would be transductive."""
    pool = list(dict.fromkeys(text for texts in sources.values() for text in texts))
    forbidden = {normalized(text) for task in tasks for text in task.texts}
    chosen: list[str] = []
    dropped = 0
    for index in np.random.default_rng(seed).permutation(len(pool)):
        if len(chosen) == count:
            break
        if normalized(pool[index]) in forbidden:
            dropped += 1
        else:
            chosen.append(pool[index])
    digest = hashlib.sha256("\0".join(chosen).encode("utf-8", "surrogatepass"))
    return FitText(chosen, dropped, digest.hexdigest())


def run_sources(run: str) -> dict[str, list[str]]:
    """The pair files that a run folder's own `config.yaml` names, as far as they can be read here."""
    found: dict[str, list[str]] = {}
    for path, columns in _run_data(Path(run)):
        try:
            found[path] = read_training_texts(path, columns)
        except UserError as error:
            logger.warning("overlap with the training data of %s is not measured: %s", run, error)
    return found


def _run_data(folder: Path) -> list[tuple[str, list[str]]]:
    """Path and renamed columns (none: the usual ones) of each source."""
    config = next((file for file in (folder / "config.yaml", folder.parent / "config.yaml") if file.is_file()), None)
    sources = read_mapping(config).get("data") if config is not None else None
    if not isinstance(sources, list):
        return []
    return [
        (str(source["path"]), _columns(source)) for source in sources if isinstance(source, dict) and "path" in source
    ]


def _columns(source: Mapping[str, object]) -> list[str]:
    names = [str(source.get("anchor", "anchor")), str(source.get("positive", "positive"))]
    return [] if names == ["anchor", "positive"] else names
