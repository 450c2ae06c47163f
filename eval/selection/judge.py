"""Further tasks: an encoder's readings judged on each task's own dev data, the chosen ones measured on its test data.

As for similarity: layer, pooling and the strength of a post-processing are chosen, one row for each post-processing of
a prompt. A task without dev data takes the readings that the similarity dev file chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64
from tqdm import tqdm

from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.vectors.affine import Affine
from eval.config import PostName
from eval.metrics.grid_edge import edge
from eval.postprocess.families import SIZED
from eval.postprocess.fitting import Fitting
from eval.selection.choose import Choice, best
from eval.systems.system import System, TextEncoder
from eval.tasks.pairs import PairEvidence
from eval.tasks.task import BothSides, Figure, Itemised, Task, TaskVectors, Texts, missing
from eval.tasks.topic_evidence import TopicEvidence, topic_figures
from eval.tasks.topics import TrainedTask

Step = TypeVar("Step")
CLEAN = " (clean)"
"""Ends the name of the main metric where it is measured without the items that training has shown."""
FEWEST = 2
"""Items without which there is no figure."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A system with the map that makes its vectors from raw ones of its view."""

    system: System
    post: Affine | None
    dev_score: float
    """On the task's dev data, or on the similarity dev file where the task has none."""
    chosen_on: str
    remark: str | None = None
    """Where the strength lies at the edge of its grid."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What pictures are drawn from: the decisions on the test data, and labelled vectors where there are classes."""

    decisions: object
    vectors: Float32[np.ndarray, "texts dim"]
    labels: Sequence[str]


@runtime_checkable
class Decides(Protocol):
    """A task that shows its decisions."""

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> object:
        """On the test data, with what dev chose."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A reading's figures on a task's test data, the main one first. `dev_score` is None for an outside baseline."""

    name: str
    is_tuned: bool
    dev_score: float | None
    chosen_on: str
    figures: list[Figure]
    is_baseline: bool = False
    evidence: Evidence | None = None
    remarks: tuple[str, ...] = ()
    """Choices at the edge of what was tried."""
    chosen: str = ""
    """Threshold, k or C."""

    def without_evidence(self) -> Measured:
        """The figures alone: vectors of every system are too much to hold."""
        return self if self.evidence is None else replace(self, evidence=None)


@dataclass(frozen=True)
class EvaluationOptions:
    """How vectors are made and figures resampled: the same for every task."""

    batch_tokens: int
    resamples: int
    seed: int
    progress: bool = True
    clean: Mapping[str, Int64[np.ndarray, " _"]] = field(default_factory=dict)
    """By task the rows of the items that no training text touches; only where others are."""

    def watched(self, steps: Sequence[Step], name: str) -> Iterable[Step]:
        """A bar with the time left, once the steps have taken some seconds."""
        return tqdm(steps, desc=name, delay=3.0, disable=not self.progress, leave=False)


def judge(
    task: Task,
    encoder: TextEncoder,
    fitting: Fitting,
    views: Sequence[View],
    chosen: Sequence[Choice],
    bench: EvaluationOptions,
) -> list[Measured]:
    """Every post-processing's best reading. `chosen` are the similarity task's choices for the same prompt."""
    dev = None if task.dev is None else read(encoder, task.dev, fitting.prompt, views, bench)
    readings = _inherited(chosen) if dev is None else _choose(task, dev, fitting, views, bench)
    if not readings:
        return []
    wanted = list(dict.fromkeys(reading.system.view for reading in readings))
    test = read(encoder, task.test, fitting.prompt, wanted, bench)
    return [_measure(task, reading, dev, test, bench) for reading in bench.watched(readings, task.name)]


def read(
    encoder: TextEncoder, texts: Texts, prompt: str, views: Sequence[View], bench: EvaluationOptions
) -> Mapping[View, TaskVectors]:
    """Raw vectors of both sides, one forward pass a text."""
    queries = encoder.encode_views(
        texts.queries, views, prompt=prompt, side="query", batch_tokens=bench.batch_tokens, progress=bench.progress
    )
    if not texts.documents:
        return BothSides(queries)
    documents = encoder.encode_views(
        texts.documents, views, prompt=prompt, side="document", batch_tokens=bench.batch_tokens, progress=bench.progress
    )
    return BothSides(queries, documents)


def applied(post: Affine | None, vectors: TaskVectors) -> TaskVectors:
    """Both sides through one map."""
    if post is None:
        return vectors
    documents = vectors.documents
    return TaskVectors(post.apply(vectors.queries), post.apply(documents) if len(documents) else _narrow(post))


def _narrow(post: Affine) -> Float32[np.ndarray, "0 k"]:
    return np.empty((0, post.dimension), dtype=np.float32)


def _inherited(chosen: Sequence[Choice]) -> list[Reading]:
    """Of each post-processing the reading with the best similarity dev score."""
    families: dict[str, list[Choice]] = {}
    for choice in chosen:
        if not choice.system.is_transductive:
            families.setdefault(_family(choice.system.post), []).append(choice)
    winners = [best(members) for members in families.values()]
    return [Reading(winner.system, winner.post, winner.dev_score, winner.chosen_on or "") for winner in winners]


def _family(post: str | None) -> str:
    return "raw" if post is None else post.partition("-")[0]


def _choose(
    task: Task, dev: Mapping[View, TaskVectors], fitting: Fitting, views: Sequence[View], bench: EvaluationOptions
) -> list[Reading]:
    """Of equal dev scores the first: the shallower layer, the larger k."""
    leaders: dict[PostName, tuple[float, Reading]] = {}
    for view in bench.watched(views, dev_name(task)):
        vectors = dev[view]
        width = vectors.queries.shape[1]
        found = fitting.candidates(view, width)
        for candidate in found:
            post = None if candidate.post == "raw" else candidate.affine()
            score = task.dev_score(applied(post, vectors))
            rank = float(np.nan_to_num(score, nan=-np.inf))
            if candidate.post not in leaders or rank > leaders[candidate.post][0]:
                tried = [other.k for other in found if other.post == candidate.post]
                remark = dimension_edge(candidate.label, candidate.k, tried, width)
                system = System(fitting.prompt, view, fitting.run, None if post is None else candidate.label)
                leaders[candidate.post] = rank, Reading(system, post, rank, dev_name(task), remark)
    return [reading for _, reading in leaders.values()]


def dev_name(task: Task) -> str:
    """What a task's readings are chosen on."""
    if isinstance(task, TrainedTask) and task.data.dev is None:
        return f"a fifth of the training texts of {task.name}"
    return f"{task.name} dev"


def _measure(
    task: Task,
    reading: Reading,
    dev: Mapping[View, TaskVectors] | None,
    test: Mapping[View, TaskVectors],
    bench: EvaluationOptions,
) -> Measured:
    view, post = reading.system.view, reading.post
    own_dev, own_test = None if dev is None else applied(post, dev[view]), applied(post, test[view])
    decisions = task.evidence(own_dev, own_test) if isinstance(task, Decides) else None
    if isinstance(decisions, TopicEvidence):  # a classifier is not trained twice
        figures = topic_figures(decisions, task.metric, bench.resamples, bench.seed)
    else:
        figures = task.measure(own_dev, own_test, bench.resamples, bench.seed)
    if task.name in bench.clean:
        figures = [*figures, _on_clean(task, decisions, own_dev, own_test, bench)]
    return Measured(
        name=reading.system.name,
        is_tuned=reading.system.is_tuned,
        dev_score=reading.dev_score,
        chosen_on=reading.chosen_on,
        figures=figures,
        evidence=None if decisions is None else _evidence(task, decisions, own_test),
        remarks=_remarks(task, reading, decisions),
        chosen=_chosen(decisions),
    )


def _chosen(decisions: object) -> str:
    if isinstance(decisions, PairEvidence) and decisions.threshold is not None:
        return f"threshold {decisions.threshold:.4f}"
    if isinstance(decisions, TopicEvidence):
        return ", ".join(f"{name} {value:g}" for name, value in decisions.setting.items())
    return ""


def _on_clean(
    task: Task, decisions: object, dev: TaskVectors | None, test: TaskVectors, bench: EvaluationOptions
) -> Figure:
    """The main metric on what training has not shown; what dev chose stays as it was."""
    rows = bench.clean[task.name]
    found = missing(task.metric, bench.resamples, len(rows))
    if len(rows) >= FEWEST and isinstance(decisions, TopicEvidence):
        found = topic_figures(decisions.at(rows), task.metric, bench.resamples, bench.seed)[0]
    elif len(rows) >= FEWEST and isinstance(task, Itemised):
        found = task.measure_items(rows, dev, test, bench.resamples, bench.seed)[0]
    return replace(found, metric=f"{task.metric}{CLEAN}")


def _remarks(task: Task, reading: Reading, decisions: object) -> tuple[str, ...]:
    """Of the strength of the post-processing, and of a classifier's own setting."""
    found = [reading.remark]
    if isinstance(task, TrainedTask) and isinstance(decisions, TopicEvidence):
        found += [task.setting_edge(value) for value in decisions.setting.values()]
    return tuple(remark for remark in found if remark is not None)


def _evidence(task: Task, decisions: object, test: TaskVectors) -> Evidence:
    if not isinstance(decisions, TopicEvidence):
        return Evidence(decisions, test.queries[:0], [])
    place = {text: row for row, text in enumerate(task.test.queries)}
    rows = [place[text] for text in decisions.texts]
    return Evidence(decisions, test.queries[rows], [decisions.classes[code] for code in decisions.gold])


def refuse_equal_names(tasks: Sequence[Task], others: Sequence[str]) -> None:
    """Names are the columns of the report."""
    seen = set(others)
    for task in tasks:
        if task.name in seen:
            raise UserError(f"two tasks have the name {task.name}; rename one of them (option name)")
        seen.add(task.name)


NARROWEST = 2
"""Vectors of one dimension have no cosine but 1 and -1."""


def dimension_edge(post: str, k: int, tried: Sequence[int], width: int) -> str | None:
    """Of a post-processing (`whiten-64`) that comes in several k."""
    if post.partition("-")[0] not in SIZED:
        return None
    found = edge("k", k, tried, low=NARROWEST, high=width)
    return None if found is None else f"{found} (systems.dimensions)"
