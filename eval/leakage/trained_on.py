"""What tuned runs were trained on: the texts of the files that their configurations name, without those held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.dev_record import DevRecord, read_record
from dec2vec.files.kept_rows import kept_in
from eval.leakage.streamed_texts import StreamedTexts, joined_texts
from eval.leakage.training_text import TextSource, merged_by_file, read_training_texts
from eval.systems.recipes import run_config, run_home
from eval.systems.system import run_name

_COLUMNS = {
    "pairs": ("anchor", "positive"),
    "graded": ("sentence1", "sentence2"),
    "texts": ("text",),
    "labelled": ("text",),
}
"""Options of `data` that name the columns of texts, by the kind of a source's rows."""


@dataclass(frozen=True)
class TrainedOn:
    """By file the texts that tuned runs were trained on; by run why some of it, or all, is not known."""

    texts: dict[str, Sequence[str]]
    unknown: dict[str, str]
    held_out: dict[Path, frozenset[str]] = field(default_factory=dict)
    """By file its texts that no run was trained on, as each held them out."""

    def trained_part(self, path: str, texts: Sequence[str]) -> Sequence[str]:
        """The texts of a file without those that the runs held out of it."""
        held = self.held_out.get(Path(path).resolve())
        return texts if held is None else [text for text in texts if text not in held]


def trained_on(*runs: str) -> TrainedOn:
    """What run folders' own `config.yaml` name, as far as it can be read here.

    What several entries or runs share is read once: seeds of one recipe cost no more than one run.
    """
    unknown: dict[str, str] = {}
    asked: dict[TextSource, dict[DevRecord, str]] = {}
    for run in runs:
        rounds = {name: _run_data(name) for name in (run, *_earlier_rounds(run))}
        blind = [name for name, data in rounds.items() if not data]
        if blind:
            unknown[run] = _why_unknown(run, blind[-1])
        for name, data in rounds.items():
            record = DevRecord() if blind else _record(name)  # a blind one may know what this one held out
            for source in data:
                asked.setdefault(source, {})[record] = run
    found: dict[str, list[Sequence[str]]] = {}
    held: dict[str, list[Sequence[str]]] = {}
    for source, records in asked.items():
        try:
            texts = read_training_texts(source)
        except UserError as error:
            unknown |= dict.fromkeys(records.values(), str(error))
            continue
        parts = [_split(texts, record) for record in records]
        found.setdefault(source.path, []).extend(kept for kept, _ in parts)
        held.setdefault(source.path, []).extend(left_out for _, left_out in parts)
    joined = {path: joined_texts(parts) for path, parts in found.items()}
    is_known = {path: isinstance(texts, StreamedTexts) or len(texts) > 0 for path, texts in joined.items()}
    known = merged_by_file({path: texts for path, texts in joined.items() if is_known[path]})
    return TrainedOn(known, unknown, _held_out(known, held))


def _why_unknown(run: str, name: str) -> str:
    if name == run:
        return "there is no config.yaml that names its data"
    return f"it went on from the adapter {run_name(name)}, which does not say what its data were"


def _split(texts: Sequence[str], record: DevRecord) -> tuple[Sequence[str], list[str]]:
    """Those that were trained on, and those that were held out. Of streamed rows none are."""
    if isinstance(texts, StreamedTexts) or not record.left_out:
        return texts, []
    left_out = [text for text in texts if record.has_left_out(text)]
    gone = set(left_out)
    return [text for text in texts if text not in gone], left_out


def _held_out(
    known: Mapping[str, Sequence[str]], held: Mapping[str, Sequence[Sequence[str]]]
) -> dict[Path, frozenset[str]]:
    """What one run held out another may have been trained on."""
    trained = {Path(path).resolve(): texts for path, texts in known.items()}
    found: dict[Path, frozenset[str]] = {}
    for path, parts in held.items():
        file = Path(path).resolve()
        texts = frozenset(text for part in parts for text in part).difference(trained.get(file, ()))
        found[file] = found.get(file, frozenset()) | texts
    return {file: texts for file, texts in found.items() if texts}


def _record(run: str) -> DevRecord:
    """What a run held out; nothing where it has no record that can be read."""
    try:
        return read_record(run_home(run)) or DevRecord()
    except UserError:
        return DevRecord()


def run_sources(*runs: str) -> dict[str, Sequence[str]]:
    """The known texts of `trained_on`."""
    return trained_on(*runs).texts


def _earlier_rounds(run: str) -> list[str]:
    """The adapters from which the training of a run went on, the latest first."""
    found: list[str] = []
    while (name := _adapter_of([run, *found][-1])) is not None and name not in found:
        found.append(name)
    return found


def _adapter_of(run: str) -> str | None:
    try:
        model = (run_config(run) or {}).get("model")
    except UserError:
        return None
    return _optional(model, "adapter") if isinstance(model, dict) else None


def _run_data(run: str) -> list[TextSource]:
    try:
        sources = (run_config(run) or {}).get("data")
    except UserError:
        return []
    if not isinstance(sources, list):
        return []
    named = (source for source in sources if isinstance(source, dict) and "path" in source)
    return [_source({**source, "path": kept_in(run_home(run), str(source["path"]))}) for source in named]


def _source(data: Mapping[str, Any]) -> TextSource:
    """One entry of `data` as the trainer reads it."""
    negatives, limit = data.get("negatives"), data.get("limit")
    return TextSource(
        path=str(data["path"]),
        columns=tuple(str(data.get(name, name)) for name in _COLUMNS.get(str(data.get("kind", "pairs")), ())),
        negatives=None if negatives is None else tuple(map(str, negatives)),
        split=str(data.get("split", "train")),
        subset=_optional(data, "subset"),
        only=tuple(map(str, data.get("only") or ())),
        limit=None if limit is None else int(limit),
        streaming=data.get("streaming") is True,
        revision=_optional(data, "revision"),
        corpus=_optional(data, "corpus"),
        queries=_optional(data, "queries"),
        min_grade=int(data.get("min_grade", 1)),
        kind=str(data.get("kind", "pairs")),
    )


def _optional(data: Mapping[str, Any], name: str) -> str | None:
    return None if data.get(name) is None else str(data[name])
