"""Evaluate one encoder with one prompt: choose layer, pooling and post-processing on dev, report on test.

Similarity tests share one dev file and are embedded together; every other task chooses on dev data of its own, or
takes what the similarity dev file chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from eval.postprocess.fitting import Fitting
from eval.postprocess.moments import Material
from eval.selection.choose import Choice, choose, choose_by_pooling, fixed, inherited
from eval.systems.subject import Subject
from eval.systems.system import System, TextEncoder
from eval.tasks.sts import StsTask
from eval.tasks.task import BothSides, E, Evidence, Figure, Task, TaskVectors, Texts, clean_figure

Step = TypeVar("Step")


@dataclass(frozen=True)
class EvaluationOptions:
    """How vectors are made and figures resampled: the same for every encoder and task."""

    material: Material
    resamples: int
    seed: int
    transductive: bool = False
    clean: Mapping[str, Int64[np.ndarray, " _"]] = field(default_factory=dict)
    """By task the rows of the items that no training text touches; only where training touches some."""

    def watched(self, steps: Sequence[Step], name: str) -> Iterable[Step]:
        """A bar with the time left, once the steps have taken some seconds."""
        return tqdm(steps, desc=name, delay=3.0, disable=not self.material.progress, leave=False)


@dataclass(frozen=True, eq=False)
class Measured:
    """What one system reached on a task's test data, the main figure first."""

    subject: Subject
    figures: list[Figure]
    choice: Choice | None = None
    """None for a baseline, for which nothing is chosen."""
    evidence: Evidence | None = None
    chosen: str = ""
    """Threshold, k or C."""
    remarks: tuple[str, ...] = ()
    """Choices at the edge of what was tried."""

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def is_tuned(self) -> bool:
        return self.subject.is_tuned

    @property
    def dev_score(self) -> float | None:
        """On the task's dev data, or on the similarity dev file where the task has none."""
        return None if self.choice is None else self.choice.dev_score

    def without_evidence(self) -> Measured:
        """The figures alone: vectors of every system are too much to hold."""
        return self if self.evidence is None else replace(self, evidence=None)


@dataclass(frozen=True, eq=False)
class Reader:
    """An encoder with one prompt, and the post-processings that were fitted for it."""

    encoder: TextEncoder
    fitting: Fitting
    options: EvaluationOptions

    @classmethod
    def from_encoder(
        cls,
        encoder: TextEncoder,
        prompt: str,
        views: Sequence[View],
        options: EvaluationOptions,
        *,
        run: str | None = None,
    ) -> Reader:
        """Fits the post-processings of `views`."""
        return cls(encoder, Fitting.from_encoder(encoder, prompt, views, options.material, run=run), options)

    def read(self, texts: Texts, views: Sequence[View]) -> Mapping[View, TaskVectors]:
        """Raw vectors of both sides, one forward pass a text."""
        material = self.options.material
        options = EncodeOptions(self.fitting.prompt, "query", material.batch_tokens, material.progress)
        queries = self.encoder.encode_views(texts.queries, views, options)
        if not texts.documents:
            return BothSides(queries)
        return BothSides(queries, self.encoder.encode_views(texts.documents, views, replace(options, side="document")))


def judge(reader: Reader, task: Task[E], views: Sequence[View], similarity: Sequence[Choice]) -> list[Measured]:
    """The best system of each post-processing. `similarity` are the choices of the similarity dev file, if any."""
    options = reader.options
    dev = None if task.dev is None else reader.read(task.dev, views)
    if dev is None:
        choices = inherited(similarity)
    else:
        choices = choose(task, dev, reader.fitting, options.watched(views, task.chosen_on))
    if not choices:
        return []
    test = reader.read(task.test, _views_of(choices))
    measured = []
    for choice in options.watched(choices, task.name):
        dev_vectors = None if dev is None else choice.applied(dev[choice.system.view])
        measured.append(measure(task, choice, dev_vectors, choice.applied(test[choice.system.view]), options))
    return measured


def judge_similarity(
    reader: Reader, dev_task: StsTask, tests: Sequence[StsTask], views: Sequence[View], named: Sequence[System]
) -> dict[str, list[Measured]]:
    """By task, dev included: each pooling's best systems, and the `named` ones raw, whatever their dev score."""
    options, fitting = reader.options, reader.fitting
    dev = reader.read(dev_task.test, list(dict.fromkeys([*views, *(system.view for system in named)])))
    choices = choose_by_pooling(dev_task, dev, fitting, views, transductive=options.transductive)
    present = {choice.system for choice in choices}
    choices += [fixed(dev_task, dev, system) for system in dict.fromkeys(named) if system not in present]
    if not choices:
        return {}
    texts, rows = _together(tests)
    test = reader.read(texts, _views_of(choices))
    measured: dict[str, list[Measured]] = {task.name: [] for task in (dev_task, *tests)}
    for choice in options.watched(choices, "similarity"):
        dev_vectors, vectors = choice.applied(dev[choice.system.view]), test[choice.system.view].queries
        measured[dev_task.name].append(measure(dev_task, choice, None, dev_vectors, options))
        for task, of_task in zip(tests, rows, strict=True):
            part = choice.applied(TaskVectors.from_queries(vectors[of_task]))
            measured[task.name].append(measure(task, choice, dev_vectors, part, options))
    return measured


def measure(
    task: Task[E], choice: Choice, dev: TaskVectors | None, test: TaskVectors, options: EvaluationOptions
) -> Measured:
    """The figures of one chosen system, from its vectors."""
    evidence = task.evidence(dev, test)
    figures = task.figures(evidence, options.resamples, options.seed)
    if task.name in options.clean:
        rows = options.clean[task.name]
        figures = [*figures, clean_figure(task, evidence, rows, options.resamples, options.seed)]
    edges = [] if choice.edge is None else [choice.edge]
    return Measured(
        subject=Subject.from_system(choice.system),
        figures=figures,
        choice=choice,
        evidence=evidence,
        chosen=evidence.chosen,
        remarks=(*edges, *task.remarks(evidence)),
    )


def _views_of(choices: Sequence[Choice]) -> list[View]:
    return list(dict.fromkeys(choice.system.view for choice in choices))


def _together(tasks: Sequence[StsTask]) -> tuple[Texts, list[Int64[np.ndarray, " texts"]]]:
    """The distinct texts of all tasks, and where the texts of each are among them."""
    index = {text: number for number, text in enumerate(dict.fromkeys(t for task in tasks for t in task.test.queries))}
    rows = [np.array([index[text] for text in task.test.queries], dtype=np.int64) for task in tasks]
    return Texts(list(index), []), rows
