"""Dev tasks: from their options to what measures an encoder during training.

A task is measured on its dev data. Data that it would report on are never read, unless they are all that it has: then
they are its dev data, and must not be among the tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dec2vec.config.tasks import DevTaskConfig, check_task
from dec2vec.errors import UserError
from dec2vec.files.held_out import HeldOut
from eval.dev import held_out
from eval.dev.limits import fewer_graded, fewer_labelled, fewer_queries, fewer_texts
from eval.mteb_tasks.bounded import loaded_task, texts_of
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.names import find, find_task
from eval.mteb_tasks.run import main_score
from eval.systems.system import TextEncoder
from eval.tasks.clustering import ClusteringTask, load_clustering
from eval.tasks.gap import load_gap
from eval.tasks.pair_task import PairTask
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import RetrievalTask, load_retrieval
from eval.tasks.sts import load_task
from eval.tasks.task import Task, TaskVectors, Texts
from eval.tasks.topic_files import load_topics
from eval.tasks.topics import TopicTask

SAME = 0.5
"""Share of the dev items from which on a test that has them measures on the same data. Below it files only overlap: 580
of the 1,498 pairs of STS-B dev stand in STS15."""
BATCH_TOKENS = 16_384
"""Maximum number of padded tokens per forward pass."""


@dataclass(frozen=True, eq=False)
class DevTask:
    """What training needs of a task."""

    name: str
    metric: str
    """The main metric."""
    metrics: tuple[str, ...]
    """The metrics that may choose a checkpoint; of each a higher value is better."""
    content_hash: str
    """sha256 of what is measured on."""
    measure: Callable[[TextEncoder], dict[str, float]]
    """Every metric by name, with the encoder as it is."""
    texts: Texts | None
    """What is embedded; None where only another package knows."""
    task: Task[Any] | None = None

    @property
    def kind(self) -> str:
        """The section of tests of its kind."""
        return "mteb" if self.task is None else self.task.kind

    @property
    def items(self) -> list[tuple[str, ...]]:
        """The texts of each pair, query or text that is judged."""
        return [] if self.task is None else self.task.items or []

    @property
    def unit(self) -> str:
        """What an item is called."""
        if isinstance(self.task, PairTask):
            return "pairs"
        return "queries" if isinstance(self.task, RetrievalTask) else "texts"


def check_shared(tasks: Sequence[DevTask], tests: Sequence[Task[Any]], mteb_tests: Sequence[str]) -> list[str]:
    """UserError where a dev task and a test measure on the same data: selection on test data is leakage.

    Files of one benchmark may share a part of their items. The lines that are returned tell of these.
    """
    notes = []
    for task in tasks:
        counts = {} if task.task is None else {test.name: _common(task, test) for test in tests}
        same = [name for name, count in counts.items() if count > SAME * len(set(task.items))]
        same += [name for name in mteb_tests if task.task is None and _is_member(task.name, name)]
        if same:
            raise UserError(
                f"eval.dev: {task.name} has data of the test {same[0]}; use different ones, because selection on test "
                "data is leakage"
            )
        some = ", ".join(f"{count:,} in {name}" for name, count in counts.items() if count)
        if some:
            notes.append(f"eval.dev {task.name}: some of its {len(task.items):,} {task.unit} are in tests too: {some}")
    return notes


def _common(dev: DevTask, test: Task[Any]) -> int:
    return len(set(dev.items) & set(test.items or ()))


def _is_member(task: str, tested: str) -> bool:
    """Whether an MTEB dev task is a tested one, or belongs to a tested benchmark."""
    names = [member.metadata.name for member in find([tested]).tasks]
    return task.removeprefix("mteb/") in names


def load_dev_tasks(configs: Sequence[DevTaskConfig], held: HeldOut | None, temperature: float) -> list[DevTask]:
    """The tasks of `eval.dev` in their order. `held` are the pairs that were held out of the training data."""
    tasks = []
    for number, config in enumerate(configs):
        check_task(f"eval.dev.{number}", config)
        tasks.append(_load(config, held, temperature))
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"eval.dev: two tasks have the name {twice}; rename one of them (option name)")
    return tasks


def read(texts: Texts, encoder: TextEncoder) -> TaskVectors:
    """Vectors of both sides, in the encoder's own prompts."""
    options: dict[str, Any] = {"batch_tokens": BATCH_TOKENS, "normalize": False, "progress": False}
    if not texts.documents:
        return TaskVectors.from_queries(encoder.encode(texts.queries, **options))
    queries = encoder.encode(texts.queries, side="query", **options)
    return TaskVectors(queries, encoder.encode(texts.documents, side="document", **options))


def _load(config: DevTaskConfig, held: HeldOut | None, temperature: float) -> DevTask:
    if config.mteb is not None:
        return _of_mteb(config.mteb, config.limit, config.documents)
    if config.held_out is not None:
        assert held is not None
        return _of_held_out(held, temperature)
    task = _load_task(config)
    dev = task.dev
    assert dev is not None

    def measure(encoder: TextEncoder) -> dict[str, float]:
        return task.dev_scores(read(dev, encoder))

    return DevTask(task.name, task.metric, task.dev_metrics, content_hash(task), measure, dev, task)


def _load_task(config: DevTaskConfig) -> Task[Any]:
    """The task with its dev data, of which limits keep a part."""
    limit = config.limit
    if config.similarity is not None:
        similarity = load_task(config.similarity)
        pairs = fewer_graded(similarity.test_pairs, limit)
        return replace(similarity, test_pairs=pairs, dev_pairs=pairs)
    if config.retrieval is not None:
        return _retrieval(config)
    if config.topics is not None:
        return load_topics(config.topics, is_dev=True, limit=limit, train_limit=config.documents)
    if config.clustering is not None:
        return fewer_texts(load_clustering(config.clustering, is_dev=True), limit)
    pair_task = load_gap(config.gap, is_dev=True) if config.gap else load_pairs(_given(config.pairs), is_dev=True)
    labelled = fewer_labelled(pair_task.test_pairs, limit)
    return replace(pair_task, test_pairs=labelled, dev_pairs=labelled)


def _given(section: Any) -> Any:
    assert section is not None
    return section


def _retrieval(config: DevTaskConfig) -> RetrievalTask:
    section = _given(config.retrieval)
    task = load_retrieval(section.path, section.ignore_identical_ids, is_dev=True)
    return fewer_queries(replace(task, name=section.name or task.name), config.limit, config.documents)


def _of_held_out(held: HeldOut, temperature: float) -> DevTask:
    task = held_out.retrieval_task(held)

    def measure(encoder: TextEncoder) -> dict[str, float]:
        return held_out.measure(held, task, encoder, temperature)

    return DevTask(task.name, task.metric, task.dev_metrics, held.content_hash, measure, task.dev, task)


def _of_mteb(name: str, limit: int | None, documents: int | None) -> DevTask:
    task = loaded_task(find_task(name), limit, documents)

    def measure(encoder: TextEncoder) -> dict[str, float]:
        return {"main_score": main_score(MtebEncoder(name, encoder=encoder, batch_tokens=BATCH_TOKENS), task)}

    bounds = "" if limit is None and documents is None else f" {limit} {documents}"
    digest = hashlib.sha256(f"{task.metadata.dataset}{bounds}".encode()).hexdigest()
    return DevTask(f"mteb/{name}", "main_score", ("main_score",), digest, measure, texts_of(task))


def content_hash(task: Task[Any]) -> str:
    """sha256 of the dev texts of a task with what is known of them."""
    if isinstance(task, PairTask):
        pairs: str = task.known_dev_pairs.content_hash
        return pairs
    digest = hashlib.sha256()
    for part in _contents(task):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _contents(task: Task[Any]) -> Iterator[str]:
    dev = task.dev
    yield from [] if dev is None else [*dev.queries, "", *dev.documents]
    if isinstance(task, RetrievalTask) and task.dev_queries is not None:
        yield json.dumps(task.dev_queries.qrels, sort_keys=True)
    elif isinstance(task, TopicTask):
        yield from [part.content_hash for part in (task.data.train, task.data.dev) if part is not None]
    elif isinstance(task, ClusteringTask) and task.dev_data is not None:
        yield task.dev_data.content_hash
