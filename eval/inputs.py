"""What an evaluation reads before any model: similarity files, further tasks, training-side text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dec2vec.errors import UserError
from eval.config import EvalConfig
from eval.lab import refuse_equal_names
from eval.leakage.held_out import held_out_texts
from eval.leakage.training_text import FitText, sample_fit_text
from eval.postprocess.families import FITTED
from eval.task_config import IsotropyConfig, RetrievalConfig
from eval.tasks.clustering import load_clustering
from eval.tasks.gap import load_gap
from eval.tasks.isotropy import IsotropyTask, load_isotropy
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import RetrievalTask, load_retrieval
from eval.tasks.sts import StsTask, load_task
from eval.tasks.task import Task
from eval.tasks.topic_config import load_topics


def load_similarity(config: EvalConfig) -> tuple[StsTask | None, list[StsTask]]:
    """Dev and tests; neither in an evaluation of other tasks alone."""
    others = (config.pairs, config.gap, config.topics, config.clustering, config.retrieval, config.isotropy)
    if config.dev or config.tests or not any(others):
        return load_tasks(config)
    if config.mteb:
        raise UserError("mteb: the untuned reading is chosen on the similarity dev file; name it, and tests")
    return None, []


def refuse_undecided(tasks: Sequence[Task]) -> None:
    """Without a similarity dev file each task must choose its readings itself."""
    task = next((task for task in tasks if task.dev is None), None)
    if task is not None:
        raise UserError(
            f"{task.name}: has no dev data to choose readings on; name its dev file, or a similarity file to choose "
            "on (--dev FILE --tests FILE)"
        )


def load_tasks(config: EvalConfig) -> tuple[StsTask, list[StsTask]]:
    """Dev and tests, read before any model; a dev that is also a test would be leakage."""
    if not config.dev:
        raise UserError("config error: dev: name the similarity file on which layer and k are chosen (--dev FILE)")
    if not config.tests:
        raise UserError("config error: tests: name at least one similarity file to report on (--tests FILE ...)")
    dev, tests = load_task(config.dev), [load_task(path) for path in config.tests]
    for index, task in enumerate(tests):
        if task.content_hash == dev.content_hash:
            raise UserError(f"{config.tests[index]} holds the pairs of {config.dev}: choices on a test set are leakage")
        if task.name in {other.name for other in (dev, *tests[:index])} | {"average"}:
            raise UserError(f"{config.tests[index]}: another file is called {task.name} too; rename one of them")
    return dev, tests


def load_further(config: EvalConfig, similarity: Sequence[StsTask]) -> list[Task]:
    """The tasks beside similarity, in the order of the sections."""
    tasks: list[Task] = [
        *map(load_pairs, config.pairs),
        *map(load_gap, config.gap),
        *map(load_topics, config.topics),
        *map(load_clustering, config.clustering),
        *map(_make_retrieval, config.retrieval),
        *map(_make_isotropy, config.isotropy),
    ]
    refuse_equal_names(tasks, [task.name for task in similarity])
    return tasks


def fit_text(
    config: EvalConfig, sources: Mapping[str, Sequence[str]], tasks: Sequence[StsTask], further: Sequence[Task] = ()
) -> FitText | None:
    """A sample of training-side text without any evaluation text; None where nothing is fitted."""
    fitted = [post for post in config.systems.post if post in FITTED]
    if not fitted:
        return None
    if not sources:
        raise UserError(
            f"config error: fit: {fitted[0]} needs training-side text (--fit FILE), or --systems.post without it"
        )
    fit = sample_fit_text(sources, held_out_texts(tasks, further), config.fit_sentences, config.seed)
    if len(fit.sentences) < 2:
        raise UserError(
            f"fit: {len(fit.sentences)} sentences are left to fit {fitted[0]} on; name more training-side text"
        )
    return fit


def _make_retrieval(config: RetrievalConfig) -> RetrievalTask:
    task = load_retrieval(config.path)
    return replace(task, name=config.name or task.name)


def _make_isotropy(config: IsotropyConfig) -> IsotropyTask:
    task = load_isotropy(config.path, config.close)
    return replace(task, name=config.name or f"{task.name}/isotropy")
