"""What an evaluation reads before any model: similarity files, further tasks, training-side text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.load import check_folder
from dec2vec.decoder.model_folders import find
from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists
from dec2vec.prompts.ensembles import check_prompt
from eval.config import EvalConfig, IsotropyConfig, RetrievalConfig, SystemsConfig
from eval.leakage import overlap
from eval.leakage.streamed_texts import StreamedTexts
from eval.leakage.trained_on import TrainedOn, trained_on
from eval.leakage.training_text import (
    FitText,
    TextSource,
    held_out_texts,
    read_training_texts,
    sample_fit_text,
    with_fit_text,
)
from eval.mteb_tasks.names import find_tasks
from eval.mteb_tasks.prompts import parse_prompts
from eval.postprocess.families import FITTED
from eval.selection.asked import fittable, without_fitted
from eval.selection.shortlist import check_shortlist
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
    systems: SystemsConfig
    """As configured, without default post-processings that nothing can be fitted for."""
    notes: Sequence[str] = ()
    """A line for what is left out."""

    @property
    def similarity(self) -> list[StsTask]:
        """Dev first."""
        return [*([] if self.dev is None else [self.dev]), *self.tests]

    @property
    def evaluated(self) -> list[str]:
        """Texts that nothing may be fitted on."""
        return held_out_texts([*self.similarity, *self.further])


def read_inputs(config: EvalConfig, training_texts: Mapping[str, Sequence[str]] | None = None) -> Inputs:
    """What `config` names; `training_texts` by name stand in for the files of `config.fit`.

    What the configuration or its tasks make impossible is refused (UserError) before the training text is read.
    """
    _refuse_nothing(config)
    for prompt in config.systems.prompts:
        check_prompt(prompt)
    find_tasks(config.mteb)  # a misspelt name is refused now, not in the end
    parse_prompts(config.mteb_prompts)
    check_runs(config.tuned)
    check_shortlist(config.systems, config.dev)
    dev, tests = _load_similarity(config)
    similarity = [*([] if dev is None else [dev]), *tests]
    further = _load_further(config, similarity)
    tasks = [*similarity, *further]
    systems, notes = fittable(
        config.systems,
        training_texts or config.fit,
        [task.has_corpus for task in tasks],
        can_choose=any(task.dev is not None for task in further) or dev is not None,
    )
    trained = trained_on(*config.tuned)
    sources = training_texts or {
        path: trained.trained_part(path, read_training_texts(TextSource(path))) for path in config.fit
    }
    evaluated = held_out_texts(tasks)
    fit = _fit_text(replace(config, systems=systems), sources, evaluated)
    if fit is None and sources:
        systems, left_out = without_fitted(systems)
        notes = [*notes, *left_out]
    if fit is not None:
        notes = [*notes, *(texts.note(name) for name, texts in sources.items() if isinstance(texts, StreamedTexts))]
    return Inputs(dev, tests, further, trained, sources, fit, systems, notes)


def measure_overlap(inputs: Inputs) -> overlap.Seen:
    """What tuning, the fit of post-processings, choices on dev and the tasks' own classifiers have seen."""
    shown = with_fit_text(inputs.trained.texts, inputs.sources)
    chosen_on = [*overlap.dev_source(inputs.dev, inputs.tests), *overlap.dev_splits(inputs.further)]
    narrower = [*chosen_on, *overlap.train_splits(inputs.further)]
    return overlap.measure(shown, overlap.evaluation_sets(inputs.similarity, inputs.further), narrower)


def load_tasks(config: EvalConfig) -> tuple[StsTask, list[StsTask]]:
    """Dev and tests, both of which training needs for its report; a dev that is also a test would be leakage."""
    if not config.dev:
        raise UserError("config error: dev: give the similarity file on which layer and k are selected")
    if not config.tests:
        raise UserError("config error: tests: give at least one similarity file")
    dev, tests = _load_similarity(config)
    assert dev is not None
    return dev, tests


def _load_similarity(config: EvalConfig) -> tuple[StsTask | None, list[StsTask]]:
    """Dev and tests, read before any model; a dev that is also a test would be leakage."""
    dev = load_task(config.dev) if config.dev else None
    dev_pairs = None if dev is None else dev.test_pairs
    tests = [replace(load_task(path), dev_pairs=dev_pairs) for path in config.tests]
    known = [] if dev is None else [dev]
    for path, task in zip(config.tests, tests, strict=True):
        if dev is not None and task.content_hash == dev.content_hash:
            raise UserError(
                f"{path} contains the pairs of {config.dev}; use different files, because selection on test data is "
                "leakage"
            )
        if task.name in {other.name for other in known} | {"average"}:
            raise UserError(f"{path}: another file has the name {task.name} too; rename one of them")
        known.append(task)
    return dev, tests


def check_runs(paths: Sequence[str]) -> None:
    """A row is called by its folder. A misspelt folder is refused as well: now, not when its turn comes."""
    for path in paths:
        check_path_exists(path, "tuned run")
    names = [run_name(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two tuned runs have the name {twice}; rename one of the folders, or give each once")
    for path in paths:
        if find(ModelConfig(name_or_path=path)) is None:
            check_folder(Path(path))


def _refuse_nothing(config: EvalConfig) -> None:
    tasks = (config.pairs, config.gap, config.topics, config.clustering, config.retrieval, config.isotropy)
    if not any((config.tests, config.mteb, *tasks)):
        raise UserError(
            "config error: there is nothing to evaluate on; give similarity files as tests, or a section such "
            "as retrieval (retrieval.0.path FOLDER)"
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


def _fit_text(config: EvalConfig, sources: Mapping[str, Sequence[str]], evaluated: Sequence[str]) -> FitText | None:
    """A sample of training-side text without any evaluation text; None where nothing is or can be fitted."""
    fitted = [post for post in config.systems.post if post in FITTED]
    if not fitted or not sources:
        return None
    fit = sample_fit_text(sources, evaluated, config.whitening_sentences, config.seed)
    if len(fit.sentences) >= 2:
        return fit
    if len(fitted) == len(config.systems.post):
        raise UserError(f"fit: only {len(fit.sentences)} sentences remain to fit {fitted[0]}; give more training text")
    return None


def _make_retrieval(config: RetrievalConfig) -> RetrievalTask:
    task = load_retrieval(config.path, config.ignore_identical_ids)
    return replace(task, name=config.name or task.name)


def _make_isotropy(config: IsotropyConfig) -> IsotropyTask:
    task = load_isotropy(config.path, config.close)
    return replace(task, name=config.name or f"{task.name}/isotropy")
