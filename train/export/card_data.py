"""The section "Training data" of a model card: the rows that were trained on, and what each source was used for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.hub_datasets import hub_parts
from dec2vec.files.kept_rows import kept_in
from dec2vec.text_tables import markdown_table
from train.config import TrainConfig
from train.data.dataset import content_hash, load_data
from train.data.held_out import load_run_data
from train.data.row_extras import extras_of
from train.data.table import SourceTable
from train.export.card_losses import objective
from train.losses.per_source import losses_of
from train.options.data import SourceConfig

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILES = frozenset({".jsonl", ".csv", ".tsv", ".parquet", ".json", ".txt", ".gz", ".zst"})


@dataclass(frozen=True)
class DataFact:
    """A source of training rows. `rows` and `sha256` are None if it is no longer available."""

    name: str
    is_hub_id: bool
    rows: int | None = None
    sha256: str | None = None
    selection: str = ""
    """Which of its rows, and how often: `only source=mrpc, weight 44`."""
    with_negatives: int | None = None
    """How many rows have hard negatives of their own; None if that is not known."""


def is_hub_id(name: str) -> bool:
    """Whether a name is a Hub id and not a file or folder."""
    path = Path(name)
    return not path.exists() and path.suffix not in _FILES and _HUB_ID.fullmatch(name) is not None


def describe_data(config: TrainConfig) -> tuple[DataFact, ...]:
    """Counts and hashes of the sources that are local files. The Hub is not asked again.

    If all are local files they are loaded together, as for training: a label with a single text in all of them is left
    out, one with a single text in a single file is not.
    """
    if not any(_hub_name(source) for source in config.data):
        together = _load(config, config.data)
        if together is not None:
            return tuple(map(_fact, config.data, together))
    return tuple(_describe(config, source) for source in config.data)


def with_kept_rows(config: TrainConfig, run: Path) -> TrainConfig:
    """The configuration of a run that may have been moved together with the rows that it keeps."""
    data = tuple(replace(source, path=kept_in(run, source.path)) for source in config.data)
    return replace(config, data=data)


def _hub_name(source: SourceConfig) -> str | None:
    """owner/name, without subset and split; a name without an owner is one too."""
    parts = hub_parts(source.path)
    if parts is not None:
        return parts["name"]
    return source.path if is_hub_id(source.path) else None


def _describe(config: TrainConfig, source: SourceConfig) -> DataFact:
    name = _hub_name(source)
    if name is not None:
        return DataFact(name, is_hub_id=True, selection=_selection(source))
    tables = _load(config, [source])
    return _fact(source, None if tables is None else tables[0])


def _load(config: TrainConfig, sources: Sequence[SourceConfig]) -> tuple[SourceTable, ...] | None:
    """The rows that were trained on; None if they are unknown. The rows of all sources decide which are held out."""
    try:
        mixed = config.batch.sources == "mixed"
        if any(task.held_out is not None for task in config.eval.dev_tasks):
            return load_run_data(config)[0].tables if sources == config.data else None
        extras = [extras_of(config, source) for source in sources]
        return load_data(sources, normalization=config.model.text_normalization, mixed=mixed, extras=extras).tables
    except UserError:
        return None


def _fact(source: SourceConfig, table: SourceTable | None) -> DataFact:
    name, selection = Path(source.path).name, _selection(source)
    if table is None:
        return DataFact(name, is_hub_id=False, selection=selection)
    negatives = sum(len(texts) > 2 for texts in table.texts) if source.kind == "pairs" else 0
    return DataFact(name, False, len(table), content_hash([table]), selection, negatives)


def _selection(source: SourceConfig) -> str:
    parts = hub_parts(source.path) or {"subset": None, "split": None}
    subset, split = source.subset or parts["subset"], parts["split"] or source.split
    found = [f"subset {subset}"] if subset else []
    found += [f"split {split}"] if split != "train" else []
    found += ["only " + " or ".join(source.only)] if source.only else []
    found += [f"first {source.limit:,}"] if source.limit is not None else []
    found += [f"weight {source.weight:g}"] if source.weight is not None else []
    return ", ".join([*found, *(["cleaned"] if source.clean else [])])


def data_section(config: TrainConfig, facts: Sequence[DataFact]) -> str:
    """A line a source: rows, what they are, the losses, prompts other than the model's, and a hash of the texts."""
    if not facts:
        return ""
    header = ("source", "rows", "kind", "trained with", "prompts", "sha256 of the texts")
    rows = [_row(config, source, fact) for source, fact in zip(config.data, facts, strict=True)]
    return "\n".join(["## Training data", "", *markdown_table(header, rows, left=(0, 2, 3, 4, 5))])


def _row(config: TrainConfig, source: SourceConfig, fact: DataFact) -> list[str]:
    losses = [objective(loss, source, config, fact.with_negatives) for loss in losses_of(source, config)]
    return [
        f"{fact.name}: {fact.selection}" if fact.selection else fact.name,
        "not counted" if fact.rows is None else f"{fact.rows:,}",
        source.kind,
        "; ".join(losses),
        _prompts(source),
        "–" if fact.sha256 is None else f"`{fact.sha256}`",
    ]


def _prompts(source: SourceConfig) -> str:
    """Those that are not the model's own."""
    named = (("query", source.query_prompt), ("document", source.document_prompt))
    found = [f"{side}: `{' '.join(prompt.split())}`" for side, prompt in named if prompt is not None]
    return "; ".join(found) or "the model's"
