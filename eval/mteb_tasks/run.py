"""MTEB tasks and benchmarks by name, run on our encoder by `mteb` itself; their data come from the Hub.

Needs the mteb package. Results are written in mteb's own layout, as its leaderboard takes them, as soon as a task is
finished: results/<model>/<revision>/<task>.json, with model_meta.json beside them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import why_not_written
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.finished import Finished
from eval.mteb_tasks.names import find_tasks, mteb_package

BATCH = 1024
"""Texts handed over at once: the encoder makes its own batches of them."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """A finished task."""

    name: str
    score: float
    texts: int
    """Different texts that were read."""
    cut: int
    """Those of them that `max_length` cut."""


def run_mteb(encoder: MtebEncoder, tasks: Sequence[Any], output: str | Path) -> dict[str, float]:
    """Main score by task. Tasks are names of tasks and benchmarks, or mteb task objects of one's own."""
    return {scored.name: scored.score for scored in run_tasks(encoder, tasks, output)}


def main_score(encoder: MtebEncoder, task: Any) -> float:
    """The main score of one task, of which nothing is written."""
    result = _evaluate(encoder, task)
    if result is None:
        raise UserError(f"MTEB task {_name(task)}: its data are not public")
    return float(result.get_score())


def run_tasks(encoder: MtebEncoder, tasks: Sequence[Any], output: str | Path) -> Iterator[Scored]:
    """Each task as it is finished. One without public data is left out with a warning.

    A task that this encoder finished before, by its digest and not by its name, is taken from `output`. Raises
    UserError for an unknown name (before anything is run), missing data and an output that can't be written.
    """
    found = find_tasks(tasks)
    runner = _Runner(encoder, Path(output), Finished.read(Path(output), encoder.digest))
    for number, task in enumerate(found, start=1):
        started = time.monotonic()
        is_new = not runner.is_finished(task)
        scored = runner.run(task)
        if scored is None:
            logger.warning("MTEB %d/%d %s: no result, as its data are not public", number, len(found), _name(task))
            continue
        what = f"{time.monotonic() - started:.0f} s" if is_new else f"finished before, in {output}"
        score = f"{task.metadata.main_score} {scored.score:.4f}"
        logger.info("MTEB %d/%d %s: %s %s (%s)", number, len(found), encoder.model_name, scored.name, score, what)
        yield scored


def _name(task: Any) -> str:
    return str(task.metadata.name)


@dataclass(frozen=True)
class _Runner:
    encoder: MtebEncoder
    output: Path
    finished: Finished

    def is_finished(self, task: Any) -> bool:
        """Whether the result in `output` is this encoder's own."""
        name = _name(task)
        stored = self._stored(task) if name in self.finished.cuts else None
        return stored is not None and float(stored.get_score()) == self.finished.scores[name]

    def run(self, task: Any) -> Scored | None:
        """From `output` if the task is finished there; None if its data are not public."""
        name = _name(task)
        if self.is_finished(task):
            return Scored(name, float(self._stored(task).get_score()), *self.finished.cuts[name])
        inner = task.metadata.tasks if task.is_aggregate else ()
        parts = [self.run(part) for part in inner]  # each is finished on its own
        result = _evaluate(self.encoder, task, self._cache(), "only-missing" if inner else "always")
        if result is None:
            return None
        counted = self.encoder.cuts.get(name)
        whole = [part for part in parts if part is not None]
        cut = (counted.texts, counted.cut) if counted else (sum(p.texts for p in whole), sum(p.cut for p in whole))
        score = float(result.get_score())
        self.finished.add(name, cut, score)
        return Scored(name, score, *cut)

    def _stored(self, task: Any) -> Any:
        """The result that lies in `output`, if it is one of all languages and splits of today's data."""
        try:
            result = self._cache().load_task_result(_name(task), self.encoder.mteb_model_meta)
        except (OSError, ValueError, KeyError):
            return None
        is_whole = result is not None and (task.is_aggregate or not result.get_missing_evaluations(task))
        return result.validate_and_filter_scores(task) if is_whole and result.is_mergeable(task) else None

    def _cache(self) -> Any:
        try:
            return mteb_package().ResultCache(self.output)
        except OSError as error:
            raise UserError(f"{self.output}: can't be written; {why_not_written(error)}") from error


def _evaluate(encoder: MtebEncoder, task: Any, cache: Any = None, overwrite: str = "always") -> Any:
    """The result, which mteb writes into `cache`; None if the data are not public."""
    import datasets

    try:
        results = mteb_package().evaluate(
            encoder,
            task,
            cache=cache,
            overwrite_strategy=overwrite,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": BATCH, "show_progress_bar": False},
        )
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"MTEB task {_name(task)}: {error}; if its data could not be loaded, repeat the command later: finished "
            "tasks are kept"
        ) from None
    return results.task_results[0] if results.task_results else None
