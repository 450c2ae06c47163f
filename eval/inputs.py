"""What an evaluation reads before any model: similarity files, further tasks, training-side text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists
from dec2vec.prompts.ensembles import check_prompt
from eval.config import EvalConfig, IsotropyConfig, RetrievalConfig
from eval.leakage import overlap
from eval.leakage.training_text import (
    FitText,
    TextSource,
    TrainedOn,
    held_out_texts,
    merged_by_file,
    read_training_texts,
    sample_fit_text,
    trained_on,
)
from eval.mteb_tasks.run import find_tasks
from eval.postprocess.families import FITTED
from eval.systems.system import run_name
from eval.tasks.clustering import load_clustering
from eval.tasks.gap import load_gap
from eval.tasks.isotropy import IsotropyTask, load_isotropy
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import RetrievalTask, load_retrieval
from eval.tasks.sts import StsTask, load_task
from eval.tasks.task import Task
from eval.tasks.topic_files import load_topics


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tasks and text, checked. `dev` is None, and `tests` empty, in an evaluation without similarity."""

    dev: StsTask | None
    tests: list[StsTask]
    further: list[Task[Any]]
    """The tasks besides similarity, in the order of the sections of the configuration."""
    trained: TrainedOn
    """What the tuned runs were trained on."""
    sources: Mapping[str, Sequence[str]]
    """By name the text that post-processings and baselines are fitted on."""
    fit: FitText | None
    """The sample of it for post-processings; None where nothing is fitted."""

    @property
    def similarity(self) -> list[StsTask]:
        """Dev first."""
        return [] if self.dev is None else [self.dev, *self.tests]

    @property
    def evaluated(self) -> list[str]:
        """Texts that nothing may be fitted on."""
        return held_out_texts([*self.similarity, *self.further])


def read_inputs(config: EvalConfig, training_texts: Mapping[str, Sequence[str]] | None = None) -> Inputs:
    """What `config` names; `training_texts` by name stand in for the files of `config.fit`.

    What the configuration or its tasks make impossible is refused (UserError) before the training text is read.
    """
    for prompt in config.systems.prompts:
        check_prompt(prompt)
    find_tasks(config.mteb)  # a misspelt name is refused now, not in the end
    _check_runs(config.tuned)
    dev, tests = _load_similarity(config)
    similarity = [] if dev is None else [dev, *tests]
    further = _load_further(config, similarity)
    if dev is None:
        _refuse_undecided(further)
    _refuse_unfitted(config, training_texts or config.fit)
    trained = trained_on(*config.tuned)
    sources = training_texts or {path: read_training_texts(TextSource(path)) for path in config.fit}
    evaluated = held_out_texts([*similarity, *further])
    return Inputs(dev, tests, further, trained, sources, _fit_text(config, sources, evaluated))


def measure_overlap(inputs: Inputs) -> overlap.Seen:
    """What tuning, the fit of post-processings, choices on dev and the tasks' own classifiers have seen."""
    shown = merged_by_file([inputs.trained.texts, inputs.sources])
    narrower = [*overlap.dev_source(inputs.dev, inputs.tests), *overlap.train_splits(inputs.further)]
    return overlap.measure(shown, overlap.evaluation_sets(inputs.similarity, inputs.further), narrower)


def load_tasks(config: EvalConfig) -> tuple[StsTask, list[StsTask]]:
    """Dev and tests, read before any model; a dev that is also a test would be leakage."""
    if not config.dev:
        raise UserError("config error: dev: give the similarity file on which layer and k are selected (--dev FILE)")
    if not config.tests:
        raise UserError("config error: tests: give at least one similarity file (--tests FILE ...)")
    dev = load_task(config.dev)
    tests = [replace(load_task(path), dev_pairs=dev.test_pairs) for path in config.tests]
    for index, task in enumerate(tests):
        if task.content_hash == dev.content_hash:
            raise UserError(
                f"{config.tests[index]} contains the pairs of {config.dev}; use different files, because selection on "
                "test data is leakage"
            )
        if task.name in {other.name for other in (dev, *tests[:index])} | {"average"}:
            raise UserError(f"{config.tests[index]}: another file has the name {task.name} too; rename one of them")
    return dev, tests


def _check_runs(paths: Sequence[str]) -> None:
    """A row is called by its folder. A misspelt folder is refused as well: now, not when its turn comes."""
    for path in paths:
        check_path_exists(path, "tuned run")
    names = [run_name(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two tuned runs have the name {twice}; rename one of the folders, or give each once")


def _load_similarity(config: EvalConfig) -> tuple[StsTask | None, list[StsTask]]:
    """Dev and tests; neither in an evaluation of other tasks alone."""
    others = (config.pairs, config.gap, config.topics, config.clustering, config.retrieval, config.isotropy)
    if config.dev or config.tests or not any(others):
        return load_tasks(config)
    if config.mteb:
        raise UserError("mteb: prompt and layer are chosen on the similarity dev file; name it, and tests")
    return None, []


def _refuse_undecided(tasks: Sequence[Task[Any]]) -> None:
    """Without a similarity dev file each task needs dev data of its own."""
    task = next((task for task in tasks if task.dev is None), None)
    if task is not None:
        raise UserError(
            f"{task.name}: has no dev data to choose layers on; name its dev file, or a similarity file to choose on "
            "(--dev FILE --tests FILE)"
        )


def _load_further(config: EvalConfig, similarity: Sequence[StsTask]) -> list[Task[Any]]:
    """The tasks besides similarity, in the order of the sections."""
    tasks: list[Task[Any]] = [
        *map(load_pairs, config.pairs),
        *map(load_gap, config.gap),
        *map(load_topics, config.topics),
        *map(load_clustering, config.clustering),
        *map(_make_retrieval, config.retrieval),
        *map(_make_isotropy, config.isotropy),
    ]
    _refuse_equal_names([*similarity, *tasks])
    return tasks


def _refuse_equal_names(tasks: Sequence[Task[Any]]) -> None:
    """Names are the columns of the report."""
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two tasks have the name {twice}; rename one of them (option name)")


def _refuse_unfitted(config: EvalConfig, sources: Collection[str]) -> None:
    """Before the training data of tuned runs are read."""
    fitted = [post for post in config.systems.post if post in FITTED]
    if fitted and not sources:
        raise UserError(
            f"config error: fit: {fitted[0]} needs training text (--fit FILE); otherwise remove it from --systems.post"
        )


def _fit_text(config: EvalConfig, sources: Mapping[str, Sequence[str]], evaluated: Sequence[str]) -> FitText | None:
    """A sample of training-side text without any evaluation text; None where nothing is fitted."""
    fitted = [post for post in config.systems.post if post in FITTED]
    if not fitted:
        return None
    fit = sample_fit_text(sources, evaluated, config.whitening_sentences, config.seed)
    if len(fit.sentences) < 2:
        raise UserError(f"fit: only {len(fit.sentences)} sentences remain to fit {fitted[0]}; give more training text")
    return fit


def _make_retrieval(config: RetrievalConfig) -> RetrievalTask:
    task = load_retrieval(config.path)
    return replace(task, name=config.name or task.name)


def _make_isotropy(config: IsotropyConfig) -> IsotropyTask:
    task = load_isotropy(config.path, config.close)
    return replace(task, name=config.name or f"{task.name}/isotropy")
