"""The commands `train` and `eval`, called from Python: `dec2vec.train` and `dec2vec.evaluate`.

With `cli` and the `__main__`s, only this file knows train and eval. What belongs to the whole process (random numbers,
logs, warnings, the environment) is as before when a function returns, so that a notebook may call it again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from dec2vec.config.load import read_config, validate
from dec2vec.config.model import ModelConfig
from dec2vec.config.tasks import DevTaskConfig, is_task
from dec2vec.errors import UserError
from dec2vec.files.given_rows import are_rows, check_name
from dec2vec.files.given_tests import with_given
from dec2vec.files.kept_rows import FOLDER, keep_rows
from dec2vec.own_packages import use_own_packages
from dec2vec.prompts.prompt import Side

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dec2vec.encoder import Encoder
    from eval.config import EvalConfig
    from train.config import TrainConfig
    from train.options.data import SourceConfig

OnMetrics = Callable[[int, Mapping[str, float]], object]
"""Called with the number of finished steps, and figures by name as in `metrics.jsonl`."""
Rows = Iterable[Any] | os.PathLike[str]
"""A table: a `datasets.Dataset`, a pandas frame, a list of dictionaries, or a dictionary of lists; or the name of a
file."""
Config = TypeVar("Config")


@dataclass(frozen=True)
class TrainingRun:
    """A finished run: its folder, and what is in it. `TrainingRun("runs/mine")` opens an earlier one."""

    path: Path
    """The run folder."""
    summary: str = ""
    """What the command prints at the end: the comparison with the untuned decoder, and where the model is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not (self.path / "config.yaml").is_file():
            raise UserError(f"{self.path}: no such run; give the folder that a training has written")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: a line for each step, and one for each dev evaluation."""
        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def report(self) -> dict[str, Any] | None:
        """The content of `report/report.json`; None without `eval.tests`."""
        file = self.path / "report" / "report.json"
        found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return found

    def encoder(self, device: str = "auto") -> Encoder:
        """The tuned encoder, loaded from the folder."""
        from dec2vec.encoder import Encoder

        return Encoder.load(validate(ModelConfig, {"name_or_path": str(self.path), "device": device}))

    def vectors(self, texts: list[str], *, side: Side = "text") -> NDArray[np.float32]:
        """Vectors of the texts by `encoder()`, which is loaded once."""
        return self._encoder.encode(texts, side=side)

    @cached_property
    def _encoder(self) -> Encoder:
        return self.encoder()


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation."""

    path: Path
    """The folder of the report: report.html, report.md, report.json and the pictures."""
    report: dict[str, Any]
    """The content of report.json."""
    summary: str
    """The table that the command prints."""


def train(
    config: Mapping[str, Any] | str | os.PathLike[str] | TrainConfig,
    data: Rows | None = None,
    dev: Rows | None = None,
    *,
    on_step: OnMetrics | None = None,
    on_dev: OnMetrics | None = None,
    progress: bool = True,
) -> TrainingRun:
    """Train as `dec2vec train` does, with the same run folder; the same call resumes a run that was interrupted.

    `config` is a dictionary with the sections of the YAML file, the path of such a file, or a `TrainConfig`. `data`
    gives rows (a `datasets.Dataset`, a pandas frame, a list of dictionaries, a dictionary of lists) or the name of a
    file, for each source of `config` that has no path; a list of tables is for several sources. `dev` does so for
    `eval.dev`, or lists tasks as it does (`[{"held_out": 1000}]`): a dictionary without the columns `sentence1`,
    `sentence2` and `score` is a task if all its keys are options of a task, or nearly so, or if half of them are. Rows
    are kept in the run folder. `on_step` is called after each step and `on_dev` after each dev evaluation, each with
    the number of finished steps and the figures; an exception in one ends the run. `progress` shows the notes and the
    bar of the command on standard error. Raises UserError for what the user can mend.
    """
    use_own_packages()
    from dec2vec.runtime import keep_freed_memory, keep_memory_as_usual, left_as_found
    from train.__main__ import train as run
    from train.config import TrainConfig
    from train.state import Listeners

    told = list[str]()
    listeners = Listeners(on_step, on_dev, told.append, progress)
    settings = _configuration(TrainConfig, config)
    with left_as_found(), _rows_named(settings.output_dir) as rows:
        settings = _with_data(settings, data, dev, rows)
        _show_notes(progress)
        keep_freed_memory()
        try:
            run(settings, listeners)
        finally:
            keep_memory_as_usual()
    return TrainingRun(Path(settings.output_dir), "".join(told))


def evaluate(
    config: Mapping[str, Any] | str | os.PathLike[str] | EvalConfig,
    dev: Rows | None = None,
    tests: Rows | None = None,
    *,
    progress: bool = True,
) -> Evaluation:
    """Evaluate as `dec2vec eval` does, and write the same report. Raises UserError for what the user can mend.

    `config` is a dictionary with the sections of the YAML file, the path of such a file, or an `EvalConfig`. `dev`
    gives rows, as in `train`, or the name of a file for its `dev`. `tests` does so for each task of pairs, gap, topics
    and clustering that has no `test`, in this order, or else for its `tests`; a list of tables is for several. Rows
    are not kept.
    """
    use_own_packages()
    from dec2vec.runtime import left_as_found
    from eval.__main__ import evaluate as run
    from eval.config import EvalConfig
    from eval.report.report import format_table

    with left_as_found(), with_given(_configuration(EvalConfig, config), dev, tests) as settings:
        _show_notes(progress)
        report, paths = run(settings, progress=progress)
    content = json.loads(paths.json.read_text(encoding="utf-8"))
    return Evaluation(paths.json.parent, content, format_table(report) + "\n")


def _configuration(cls: type[Config], config: object) -> Config:
    if isinstance(config, cls):
        return config
    if isinstance(config, (str, os.PathLike)):
        return validate(cls, read_config(Path(config)))
    if isinstance(config, Mapping):
        return validate(cls, {str(key): _plain(value) for key, value in config.items()})
    raise UserError(
        f"config: a {type(config).__name__}; give a dictionary, the path of a YAML file or a {cls.__name__}"
    )


def _plain(value: object) -> object:
    """As YAML would hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


@dataclass(frozen=True)
class _Rows:
    """Rows that are kept in a run folder, by file with what messages call them."""

    folder: Path
    names: dict[Path, str]
    made: set[Path]
    """Those that this call has written; another one may have kept equal rows before."""

    def source(self, given: object, kind: str, name: str) -> str:
        """The file of rows, or the file that was named instead."""
        if isinstance(given, (str, os.PathLike)):
            return str(given)
        before = {path.resolve() for path in self.folder.glob("in-memory-*.jsonl")}
        path = keep_rows(given, self.folder, kind, name).resolve()
        self.names[path] = name
        self.made.update({path} - before)
        return str(path)

    def renamed(self, message: str) -> str:
        """A message about rows, without the file that they are kept in."""
        for path, name in self.names.items():
            for spelt in (str(path), path.name, path.stem):
                message = message.replace(f"{spelt} line ", f"{name} row ").replace(spelt, name)
        return message


@contextlib.contextmanager
def _rows_named(output_dir: str) -> Iterator[_Rows]:
    """Within, rows may be kept. Files of rows that the run folder does not name in the end are removed."""
    rows = _Rows(Path(output_dir) / FOLDER, {}, set())
    try:
        yield rows
    except UserError as error:
        raise type(error)(rows.renamed(str(error))) from error
    finally:
        if os.environ.get("RANK", "0") == "0":
            _remove_unnamed(rows)


def _remove_unnamed(rows: _Rows) -> None:
    """A refused run leaves the folder as it was; one that starts anew with other rows leaves no earlier ones."""
    config = rows.folder.parent / "config.yaml"
    named = config.read_text(encoding="utf-8") if config.is_file() else ""
    is_ours = any(path.name in named for path in rows.names)
    for path in rows.folder.glob("in-memory-*.jsonl") if is_ours else rows.made:
        if path.name not in named:
            path.unlink(missing_ok=True)
    for folder in (rows.folder, rows.folder.parent):
        with contextlib.suppress(OSError):  # it is not empty, or never was there
            folder.rmdir()


def _with_data(config: TrainConfig, data: Rows | None, dev: Rows | None, rows: _Rows) -> TrainConfig:
    if data is not None:
        config = replace(config, data=_sources(config, data, rows))
    if dev is not None:
        if config.eval.dev is not None:
            raise UserError(f"dev: config names eval.dev {config.eval.dev} too; give one of them")
        check_name(dev, "dev")
        named = _tasks(dev) or rows.source(dev, "dev", "dev")
        config = replace(config, eval=replace(config.eval, dev=named))
    return config


def _sources(config: TrainConfig, data: Rows, rows: _Rows) -> tuple[SourceConfig, ...]:
    """The sources of `config`, those without a path with the tables of `data`."""
    from train.options.data import SourceConfig

    is_one = isinstance(data, (str, os.PathLike)) or are_rows(data)
    tables: list[Any] = [data] if is_one or not isinstance(data, Iterable) else [*data]
    names = ["data"] if is_one else [f"data[{number}]" for number in range(len(tables))]
    for table, name in zip(tables, names, strict=True):
        check_name(table, name)
        if isinstance(table, list) and table:
            _refuse_source(table[0], {field.name for field in fields(SourceConfig)})
    sources = list(config.data) or [SourceConfig()] * len(tables)
    empty = [number for number, source in enumerate(sources) if not source.path]
    if len(empty) != len(tables):
        raise UserError(
            f"data: {len(tables)} given, but {len(empty)} of the sources in config.data have no path; give data for "
            "each source without a path"
        )
    for number, table, name in zip(empty, tables, names, strict=True):
        sources[number] = replace(sources[number], path=rows.source(table, "data", name))
    return tuple(sources)


def _refuse_source(row: object, options: set[str]) -> None:
    """Raise UserError for a section of `config["data"]` in the place of a row, which would have texts too."""
    is_source = isinstance(row, Mapping) and "path" in row and row.keys() <= options
    if is_source and row.keys().isdisjoint(("positive", "sentence2", "text")):  # type: ignore[attr-defined]
        raise UserError(f"data: {row!r} is a source and no row; name it in config['data'], and give rows as data")


def _tasks(dev: Rows) -> tuple[str | DevTaskConfig, ...]:
    """The tasks and file names, if `dev` lists such as `eval.dev` does (`[{"held_out": 1000}]`); empty for rows.

    The first entry decides: a text is the name of a similarity file, and of dicts `is_task` tells.
    """
    from train.config import EvalSection

    if isinstance(dev, Mapping) and is_task(dev):
        raise UserError(f"dev: {dict(dev)!r} is a task; give tasks as a list, dev=[{{...}}]")
    found = list(dev) if isinstance(dev, (list, tuple)) else []
    if not found or not (isinstance(found[0], (str, os.PathLike)) or is_task(found[0])):
        return ()
    for number, name in enumerate(found):
        check_name(name, f"dev[{number}]")
    tasks = validate(EvalSection, {"dev": _plain(found)}).dev
    assert isinstance(tasks, tuple)
    return tasks


def _show_notes(progress: bool) -> None:
    """Show on standard error what the command shows there, if nobody else takes the log."""
    logging.getLogger("train").setLevel(logging.INFO if progress else logging.WARNING)
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger().addHandler(handler)
