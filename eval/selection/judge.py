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
from dec2vec.prompts.prompt import Side
from dec2vec.runtime import bar_options
from eval.postprocess.fitting import Fitting
from eval.postprocess.moments import Material
from eval.selection.ahead import Ahead
from eval.selection.choose import Choice, choose, choose_by_pooling
from eval.selection.given import NOTHING, Given, Undecided, inherited, with_given
from eval.selection.on_corpus import both_ways, refitted_on_test
from eval.systems.subject import Subject
from eval.systems.system import TextEncoder
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
    ahead: Ahead = field(default_factory=lambda: Ahead(show=False))
    """What is left of the whole evaluation."""

    def watched(self, steps: Sequence[Step], name: str) -> Iterable[Step]:
        """A bar with the time left, once the steps have taken some seconds."""
        return tqdm(steps, desc=name, **bar_options(shown=self.ahead.show))


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
        """On the task's dev data, or on the similarity dev file where the task has none; None without either."""
        return None if self.choice is None or not self.choice.dev_data else self.choice.dev_score

    def without_evidence(self) -> Measured:
        """The figures alone: vectors of every system are too much to hold."""
        return self if self.evidence is None else replace(self, evidence=None)


@dataclass(frozen=True, eq=False)
class Reader:
    """An encoder with one prompt, and the post-processings that were fitted for it."""

    encoder: TextEncoder
    fitting: Fitting
    options: EvaluationOptions
    views: tuple[View, ...]
    """What dev data choose from."""
    given: tuple[Given, ...] = ()
    """Rows of every task, whatever dev data say of them."""
    undecided: Undecided = NOTHING
    """What is tried besides where there are no dev data at all."""

    @classmethod
    def from_encoder(
        cls,
        encoder: TextEncoder,
        prompt: str,
        views: Sequence[View],
        options: EvaluationOptions,
        *,
        run: str | None = None,
        given: Sequence[Given] = (),
        undecided: Undecided = NOTHING,
    ) -> Reader:
        """Fits the post-processings of `views`; a run with a whitening of its own is whitened by that one alone."""
        own = {item.system.family for item in given if item.whitening is not None}
        material = replace(options.material, posts=tuple(post for post in options.material.posts if post not in own))
        fitting = Fitting.from_encoder(encoder, prompt, _and_given(views, given), material, run=run)
        options.ahead.passed((run, prompt), material.text)
        fitting = replace(fitting, corpus_posts=options.material.posts)
        return cls(encoder, fitting, options, tuple(views), tuple(given), undecided)

    @property
    def all_views(self) -> list[View]:
        """The given ones too."""
        return _and_given(self.views, self.given)

    def read(self, texts: Texts, views: Sequence[View]) -> Mapping[View, TaskVectors]:
        """Raw vectors of both sides, one forward pass a text."""
        material = self.options.material
        side: Side = "query" if texts.documents else "text"
        options = EncodeOptions(self.fitting.prompt, side, material.batch_tokens, material.progress)
        queries = self.encoder.encode_views(texts.queries, views, options)
        self._passed(texts.queries)
        if not texts.documents:
            return BothSides(queries)
        documents = self.encoder.encode_views(texts.documents, views, replace(options, side="document"))
        self._passed(texts.documents)
        return BothSides(queries, documents)

    def _passed(self, texts: Sequence[str]) -> None:
        self.options.ahead.passed((self.fitting.run, self.fitting.prompt), texts)


def judge(reader: Reader, task: Task[E], similarity: Sequence[Choice]) -> list[Measured]:
    """The best system of each post-processing, and the given ones.

    A task without dev data takes what the similarity dev file chose (`similarity`); where nothing can choose, every
    undecided candidate is a row.
    """
    dev = None if task.dev is None else reader.read(task.dev, reader.all_views)
    if dev is not None:
        watched = reader.options.watched(reader.all_views, task.chosen_on)
        choices = with_given(choose(task, dev, reader.fitting, watched), reader.given, dev, task)
        test = reader.read(task.test, _views_of(choices))
        choices = refitted_on_test(task, choices, reader.fitting, test)
    elif similarity:
        found = inherited(similarity)
        test = reader.read(task.test, _and_given(_views_of(found), reader.given))
        choices = with_given(found, reader.given, test, similarity=similarity)
        choices = both_ways(task, choices, reader.fitting, test)
    else:
        test = reader.read(task.test, _and_given(reader.undecided.views, reader.given))
        choices = with_given(reader.undecided.choices(test, reader.fitting, task), reader.given, test)
    return _measured(reader, task, choices, dev, test)


def _measured(
    reader: Reader,
    task: Task[E],
    choices: Sequence[Choice],
    dev: Mapping[View, TaskVectors] | None,
    test: Mapping[View, TaskVectors],
) -> list[Measured]:
    measured = []
    for choice in reader.options.watched(choices, task.name):
        view = choice.system.view
        dev_vectors = None if dev is None else choice.applied(dev[view])
        measured.append(measure(task, choice, dev_vectors, choice.applied(test[view]), reader.options))
    return measured


def judge_similarity(reader: Reader, dev_task: StsTask | None, tests: Sequence[StsTask]) -> dict[str, list[Measured]]:
    """By task, dev included: each pooling's best systems and the given ones; without dev every candidate."""
    texts, rows = _together(tests)
    if dev_task is None:
        test = reader.read(texts, _and_given(reader.undecided.views, reader.given)) if tests else {}
        undecided = reader.undecided.choices(test, reader.fitting) if tests else []
        dev, choices = None, with_given(undecided, reader.given, test) if tests else []
    else:
        dev = reader.read(dev_task.test, reader.all_views)
        is_transductive = reader.options.transductive
        chosen = choose_by_pooling(dev_task, dev, reader.fitting, reader.views, transductive=is_transductive)
        choices = with_given(chosen, reader.given, dev, dev_task)
        test = reader.read(texts, _views_of(choices)) if tests else {}
    measured: dict[str, list[Measured]] = {task.name: [] for task in (*([dev_task] if dev_task else []), *tests)}
    for choice in reader.options.watched(choices, "similarity"):
        dev_vectors = None if dev is None else choice.applied(dev[choice.system.view])
        if dev_task is not None and dev_vectors is not None:
            measured[dev_task.name].append(measure(dev_task, choice, None, dev_vectors, reader.options))
        for task, of_task in zip(tests, rows, strict=True):
            part = choice.applied(TaskVectors.from_queries(test[choice.system.view].queries[of_task]))
            measured[task.name].append(measure(task, choice, dev_vectors, part, reader.options))
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
        subject=Subject.from_system(choice.system, is_exported=choice.is_exported),
        figures=figures,
        choice=choice,
        evidence=evidence,
        chosen=evidence.chosen,
        remarks=(*edges, *task.remarks(evidence)),
    )


def _views_of(choices: Sequence[Choice]) -> list[View]:
    return list(dict.fromkeys(choice.system.view for choice in choices))


def _and_given(views: Sequence[View], given: Sequence[Given]) -> list[View]:
    return list(dict.fromkeys([*views, *(item.system.view for item in given)]))


def _together(tasks: Sequence[StsTask]) -> tuple[Texts, list[Int64[np.ndarray, " texts"]]]:
    """The distinct texts of all tasks, and where the texts of each are among them."""
    index = {text: number for number, text in enumerate(dict.fromkeys(t for task in tasks for t in task.test.queries))}
    rows = [np.array([index[text] for text in task.test.queries], dtype=np.int64) for task in tasks]
    return Texts(list(index), []), rows
