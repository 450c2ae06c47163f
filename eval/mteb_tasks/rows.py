"""MTEB tasks: the tuned encoders as they are, the untuned one with the prompt, pooling and layer that dev chose.

A benchmark gets a table of its own: the means over its tasks and over the means of their types, as mteb computes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from dec2vec.hub import pinned_revision
from eval.cache.encoders import Encoders
from eval.config import EvalConfig
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.finished import digest_of
from eval.mteb_tasks.names import find
from eval.mteb_tasks.prompts import parse_prompts, prompts_by_name
from eval.mteb_tasks.run import Scored, run_tasks
from eval.results.results import Result, TaskTable
from eval.results.truncation import Truncation, reader_name
from eval.selection.choose import Choice, best
from eval.systems.subject import Subject
from eval.systems.system import System, TextEncoder, own_view, run_name, start_of

BENCHMARK = "benchmark"
MEAN, MEAN_OF_TYPES = "mean over tasks", "mean over types of tasks"
NOTE = "Scored by the mteb package, without intervals."
NOTE_OF_MEANS = "Means of the tasks of the benchmark, each scored by the mteb package, without intervals."
logger = logging.getLogger(__name__)


def mteb_tables(
    config: EvalConfig,
    encoders: Encoders,
    choices: Sequence[Choice],
    references: Sequence[System],
    truncation: list[Truncation],
    progress: bool = False,
) -> list[TaskTable]:
    """A table a task with mteb's main score; mteb gives no interval. Its own results go to output_dir/mteb/results.

    Without dev data the untuned encoder is read as the tuned ones are (`references`), or as it is configured. How many
    texts each encoder cut is added to `truncation`.
    """
    if not config.mteb:
        return []
    asked, prompts = find(config.mteb), parse_prompts(config.mteb_prompts)
    kinds = {task.metadata.name: str(task.metadata.type) for task in asked.tasks}
    rows: dict[str, list[Result]] = {name: [] for name in (*asked.benchmarks, *kinds)}
    for system, encoder in _systems(config, encoders, choices, references):
        subject = Subject.from_system(system)
        named = prompts_by_name(encoder, prompts)
        model = _model(config, system, encoder, named, progress)
        scores: dict[str, float] = {}
        for scored in run_tasks(model, config.mteb, Path(config.output_dir) / "mteb"):
            scores[scored.name] = scored.score
            rows[scored.name].append(_row(subject, scored.name, "main_score", scored.score))
            truncation.append(_truncation(system, encoder, scored))
        for name, members in asked.benchmarks.items():
            rows[name] += _means(subject, name, {member: scores.get(member) for member in members}, kinds)
    tables = [
        TaskTable(f"mteb/{name}", MEAN, found, NOTE_OF_MEANS, kind=f"mteb/{BENCHMARK}")
        if name in asked.benchmarks
        else TaskTable(f"mteb/{name}", "main_score", found, NOTE, kind=f"mteb/{kinds[name]}")
        for name, found in rows.items()
    ]
    return [table for table in tables if table.rows]


def _row(subject: Subject, name: str, metric: str, value: float) -> Result:
    return Result(subject, f"mteb/{name}", metric, value, None, None, 0)


def _means(
    subject: Subject, benchmark: str, scores: Mapping[str, float | None], kinds: Mapping[str, str]
) -> list[Result]:
    """The mean over tasks, and over the means of the types of tasks; none if a task has no result."""
    by_kind: dict[str, list[float]] = {}
    for name, score in scores.items():
        if score is None:
            logger.warning("MTEB %s: no mean for %s, as its task %s has no result", benchmark, subject.name, name)
            return []
        by_kind.setdefault(kinds[name], []).append(score)
    of_tasks = fmean(score for found in by_kind.values() for score in found)
    of_kinds = fmean(map(fmean, by_kind.values()))
    return [_row(subject, benchmark, MEAN, of_tasks), _row(subject, benchmark, MEAN_OF_TYPES, of_kinds)]


def _model(
    config: EvalConfig, system: System, encoder: TextEncoder, prompts: Mapping[str, str], progress: bool
) -> MtebEncoder:
    """Under the id and commit of the Hub if it comes from there; otherwise its revision is a digest of what it is."""
    digest = digest_of(encoder, prompts)
    path = next((path for path in config.tuned if run_name(path) == system.run and not Path(path).exists()), None)
    commit = None if path is None else pinned_revision(ModelConfig(name_or_path=path))
    revision = commit or (None if digest is None else digest[:40])
    return MtebEncoder(
        Subject.from_system(system).name if path is None else path,
        revision,
        encoder=encoder,
        batch_tokens=config.batch_tokens,
        prompts=prompts,
        digest=digest,
        progress=progress,
    )


def _truncation(system: System, encoder: TextEncoder, scored: Scored) -> Truncation:
    reader, limit = reader_name(system.prompt, system.run, system.start), encoder.config.token_limit
    task = f"mteb/{scored.name}"
    return Truncation(task, "texts", reader, system.run, system.prompt, limit, scored.texts, scored.cut)


def _systems(
    config: EvalConfig, encoders: Encoders, choices: Sequence[Choice], references: Sequence[System]
) -> Iterator[tuple[System, TextEncoder]]:
    for name, encoder in encoders.each_tuned():
        yield System(encoder.config.prompt_name, own_view(encoder), name), encoder
    for system in _untuned(config, encoders, choices, references):
        model = replace(config.model, prompt=system.prompt, pooling=system.view.pooling, layer=system.view.layer)
        yield system, encoders.untuned(model)


def _untuned(
    config: EvalConfig, encoders: Encoders, choices: Sequence[Choice], references: Sequence[System]
) -> list[System]:
    """The reading that the similarity dev file chose, or those that are given."""
    if not config.dev:
        untuned = encoders.untuned()
        return list(dict.fromkeys(references)) or [
            System(untuned.config.prompt_name, own_view(untuned), start=start_of(config.model))
        ]
    raw = [choice for choice in choices if not choice.system.is_tuned and choice.system.post is None]
    usable = [choice for choice in raw if not choice.system.view.norm]
    if not usable:
        raise UserError("mteb: the untuned encoder needs raw vectors; add raw to systems.post")
    return [best(usable).system]
