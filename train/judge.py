"""What the trainer knows of an evaluation: a score by which the best checkpoint is chosen, and figures beside it.

The tasks themselves come from `eval`, which only `train.__main__` knows.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from dec2vec.config.tasks import task_paths
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.dev_record import Chooser
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.averaging import Vectors
from train.config import EvalSection
from train.distributed.collectives import from_main, gather_rows

DEV_METRIC = "dev_spearman"
"""The name in metrics.jsonl of the score of a single similarity file."""
DEV_SCORE = "dev_score"
LOSS = "loss"
"""The name of any other score that chooses the best checkpoint."""
MEAN = "mean"
SPEARMAN = "spearman_all"
_TITLES = {SPEARMAN: "Spearman"}
_UPDATE = 3.0
"""A training step costs about as much as this many forward passes over its texts."""


@runtime_checkable
class Measurable(Protocol):
    """A task of `eval.dev`."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """The section of tests of its kind."""

    @property
    def metric(self) -> str:
        """The main metric."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that may choose."""

    @property
    def texts(self) -> Any:
        """What is embedded, as `queries` and `documents`; None where only another package knows."""

    @property
    def content_hash(self) -> str:
        """sha256 of what is measured on."""

    @property
    def measure(self) -> Callable[[Any], dict[str, float]]:
        """Every metric by name, from an encoder."""


def score_name(options: EvalSection) -> str:
    """The name in metrics.jsonl of what chooses the best checkpoint."""
    tasks = options.dev_tasks
    is_spearman = len(tasks) == 1 and tasks[0].similarity is not None
    return DEV_METRIC if is_spearman else DEV_SCORE


@dataclass(frozen=True)
class Verdict:
    """What a dev evaluation found."""

    score: float
    """What the best checkpoint is chosen by; nan is never the best."""
    metrics: Mapping[str, float]
    """As they are logged, the score among them."""
    shown: str
    """For the console, such as `held-out nDCG@10 41.23`."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Judge:
    """The tasks of `eval.dev`, and which of their metrics chooses: that of one task, or the mean of the main ones."""

    tasks: Sequence[Measurable]
    chosen: tuple[str, str] | None = field(default=None)
    """Task and metric; None for the mean."""

    @classmethod
    def of(cls, tasks: Sequence[Measurable], metric: str | None) -> Judge:
        """`metric` is TASK/METRIC, METRIC where one task has it, mean, or None: that of the only task, or mean."""
        known = [(task.name, name) for task in tasks for name in task.metrics]
        if metric in (None, MEAN):
            return cls(tasks, (tasks[0].name, tasks[0].metric) if len(tasks) == 1 else None)
        found = [pair for pair in known if metric in ("/".join(pair), pair[1])]
        if len(found) != 1:
            names = ", ".join("/".join(pair) for pair in known)
            problem = "is a metric of several tasks" if found else "is no metric of these tasks"
            if metric.rpartition("/")[2] == LOSS:
                problem = "is shown and never chooses a checkpoint"
            raise UserError(f"eval.metric {metric} {problem}; use {MEAN} or one of: {names}")
        return cls(tasks, found[0])

    @property
    def score_name(self) -> str:
        """The name of the score in metrics.jsonl."""
        return DEV_METRIC if [task.metric for task in self.tasks] == [SPEARMAN] else DEV_SCORE

    @property
    def kind(self) -> str:
        """The kind of the task whose metric chooses; empty where the mean of several kinds does."""
        kinds = {task.kind for task in self.tasks if self.chosen is None or task.name == self.chosen[0]}
        return kinds.pop() if len(kinds) == 1 else ""

    @property
    def choosers(self) -> list[Chooser]:
        """The task whose metric chooses, or all tasks where their mean does."""
        chosen = [(task.name, task.metric) for task in self.tasks] if self.chosen is None else [self.chosen]
        return [Chooser(*names) for names in chosen]

    @property
    def metric(self) -> str:
        """The metric that chooses; empty where the mean of several ones does."""
        metrics = {chooser.metric for chooser in self.choosers}
        return metrics.pop() if len(metrics) == 1 else ""

    @property
    def title(self) -> str:
        """What chooses, in words: `Spearman`, `held-out nDCG@10` or `mean of 3 tasks`."""
        if self.chosen is None:
            return f"{MEAN} of {len(self.tasks)} tasks"
        task, metric = self.chosen
        title = _TITLES.get(metric, metric)
        return title if self.score_name == DEV_METRIC else f"{task} {title}"

    def contents(self, options: EvalSection) -> dict[str, str]:
        """By the option that names it, the sha256 of what each task measures on."""
        if isinstance(options.dev, str):
            return {"eval.dev": self.tasks[0].content_hash}
        found: dict[str, str] = {}
        for number, (entry, task) in enumerate(zip(options.dev or (), self.tasks, strict=True)):
            named = [""] if isinstance(entry, str) else [f".{option}" for option, _ in task_paths(entry)]
            found |= {f"eval.dev.{number}{option}": task.content_hash for option in named}
        return found

    def __call__(self, encoder: Any) -> Verdict:
        """Measure every task with the weights as they are."""
        started = time.monotonic()
        found = {task.name: task.measure(encoder) for task in self.tasks}
        if self.chosen is None:
            score = statistics.fmean(found[task.name][task.metric] for task in self.tasks)
        else:
            score = found[self.chosen[0]][self.chosen[1]]
        return Verdict(score, self._logged(score, found), self._shown(score, found), time.monotonic() - started)

    def _logged(self, score: float, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        if self.score_name == DEV_METRIC:
            return {DEV_METRIC: score}
        values = {f"dev/{task}/{name}": value for task, of_task in found.items() for name, value in of_task.items()}
        return {DEV_SCORE: score, **values}

    def _shown(self, score: float, found: Mapping[str, Mapping[str, float]]) -> str:
        others = [
            f"{task.name} {_TITLES.get(task.metric, task.metric)} {100 * found[task.name][task.metric]:.2f}"
            for task in self.tasks
            if (task.name, task.metric) != self.chosen
        ]
        losses = [f"{name} loss {of_task['loss']:.4f}" for name, of_task in found.items() if "loss" in of_task]
        beside = "; ".join([*others, *losses])
        return f"dev {self.title} {100 * score:.2f}{beside and f' ({beside})'}"


@dataclass
class DevClock:
    """How much of the time dev has taken in this process."""

    started: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    is_announced: bool = False

    def took(self, seconds: float) -> str:
        """Count a dev evaluation; `3.2 s, 4 % of the time so far`."""
        self.spent += seconds
        share = self.spent / max(time.monotonic() - self.started, 1e-9)
        return f"{seconds:.1f} s, {100 * share:.2g} % of the time so far"


def said_beforehand(judge: Judge, encoder: Encoder, step_tokens: int, every: int, world: int) -> str:
    """A line with what dev embeds, and about which share of the time that takes, from counts of tokens."""
    known = [task.texts for task in judge.tasks if task.texts is not None]
    texts = sum(len(part.queries) + len(part.documents) for part in known)
    tokens = sum(_tokens(encoder, part) for part in known)
    cost = tokens / world
    share = cost / (cost + every * _UPDATE * step_tokens)
    of_others = "" if len(known) == len(judge.tasks) else ", besides the MTEB tasks, whose texts are not known yet"
    advice = f"; less with a larger eval.every (now {every}) or with limit and documents" if share > 0.2 else ""
    return (
        f"dev every {every} steps by {judge.title}: {texts:,} texts, {tokens:,} tokens, about {100 * share:.2g} % of "
        f"the time{of_others}{advice}"
    )


def _tokens(encoder: Encoder, texts: Any) -> int:
    sides: list[tuple[list[str], Side]] = [
        (texts.queries, "query" if texts.documents else "text"),
        (texts.documents, "document"),
    ]
    return sum(len(ids) for part, side in sides for ids in encoder.tokenize(part, side=side))


@contextlib.contextmanager
def shared(encoder: Encoder, rank: int, world: int) -> Iterator[None]:
    """Within, all processes embed the same texts, each a part of them. Chunks are those of a single process."""
    encoder.sharing = None if world == 1 else _Ranks(rank, world, encoder.device)
    try:
        yield
    finally:
        encoder.sharing = None


def agreed(verdict: Verdict, device: torch.device) -> float:
    """The main process's score, on all processes."""
    return from_main(verdict.score, device)


@dataclass(frozen=True)
class _Ranks:
    """Chunk number n belongs to rank n modulo the number of ranks."""

    rank: int
    world: int
    device: torch.device

    def part(self, chunks: int) -> list[int]:
        return list(range(self.rank, chunks, self.world)) or [0]

    def exchange(self, parts: list[list[Vectors]], sizes: Sequence[int]) -> list[list[Vectors]]:
        """One gather for each view. The rows come by rank, and within a rank by chunk."""
        owned = self.rank < len(sizes)
        views = [np.concatenate([part[view] for part in parts]) for view in range(len(parts[0]))]
        wholes = [self._gathered(rows if owned else rows[:0]) for rows in views]
        order = [number for rank in range(self.world) for number in range(rank, len(sizes), self.world)]
        ends = list(accumulate(sizes[number] for number in order))
        places = {number: slice(end - sizes[number], end) for number, end in zip(order, ends, strict=True)}
        return [[whole[places[number]] for whole in wholes] for number in range(len(sizes))]

    def _gathered(self, rows: Vectors) -> Vectors:
        found, _ = gather_rows(torch.from_numpy(rows).to(self.device))
        return found.cpu().numpy()
