"""MTEB tasks by name, run on our encoder by `mteb` itself; their data come from the Hub.

Needs the mteb package. Each task's result is written, in mteb's own format, as soon as it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, why_not_written
from dec2vec.runtime import importing
from eval.mteb_tasks.encoder import MtebEncoder

BATCH = 1024
"""Texts handed over at once: the encoder makes its own batches of them."""
logger = logging.getLogger(__name__)


def run_mteb(encoder: MtebEncoder, tasks: Sequence[Any], output: str | Path) -> Mapping[str, float]:
    """Main score by task; `output` receives <task>.json. Tasks are names, or mteb task objects of one's own.

    Nothing is taken from mteb's cache of results: it knows a model by name, and ours changes under its name.
    Raises UserError for an unknown name (before anything is run), missing data and an output that can't be written.
    """
    found = find_tasks(tasks)
    folder = Path(output)
    scores: dict[str, float] = {}
    for task in found:
        result = _evaluate(encoder, task)
        _write(folder / f"{task.metadata.name}.json", result.model_dump_json(indent=1))
        scores[task.metadata.name] = float(result.get_score())
        logger.info("%s: %s %.4f", task.metadata.name, task.metadata.main_score, scores[task.metadata.name])
    return scores


def main_score(encoder: MtebEncoder, task: Any) -> float:
    """The main score of one task, of which nothing is written."""
    return float(_evaluate(encoder, task).get_score())


def find_tasks(tasks: Sequence[Any]) -> list[Any]:
    """By name, or as they are. UserError for a name that mteb does not know."""
    return [_task(task) for task in tasks]


def _mteb() -> Any:
    try:
        with importing():
            import mteb
    except ImportError:
        raise UserError("MTEB tasks need the mteb package: pip install mteb") from None
    return mteb


def _task(task: Any) -> Any:
    if not isinstance(task, str):
        return task
    try:
        return _mteb().get_task(task)
    except KeyError as error:
        raise UserError(f"MTEB task {task!r}: {error.args[0]}") from None


def _evaluate(encoder: MtebEncoder, task: Any) -> Any:
    import datasets

    name = task.metadata.name
    try:
        results = _mteb().evaluate(
            encoder,
            task,
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": BATCH, "show_progress_bar": False},
        )
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"MTEB task {name}: its data cannot be loaded: {error}") from None
    return results.task_results[0]


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: can't be written; {why_not_written(error)}") from error
