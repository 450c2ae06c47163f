"""Options of the further tasks, and the tasks that they describe."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config import STRICT
from eval.tasks.clustering import SEEDS, ClusteringTask, load_clustering
from eval.tasks.isotropy import CLOSE, IsotropyTask, load_isotropy
from eval.tasks.retrieval import RetrievalTask, load_retrieval


@dataclass(frozen=True, config=STRICT)
class RetrievalConfig:
    """A test collection: corpus, queries, qrels; dev_queries and dev_qrels if there are any."""

    path: str
    """Folder with corpus.jsonl, queries.jsonl, qrels.jsonl (csv, tsv, parquet as well), or their common prefix."""
    name: str = ""
    """Name in the report; empty takes the corpus file's."""


@dataclass(frozen=True, config=STRICT)
class ClusteringConfig:
    """Labelled texts; k-means looks for as many clusters as there are labels."""

    test: str
    """File with text and label that is reported on."""
    dev: str = ""
    """File by which a reading is chosen; empty leaves the choice to the similarity dev file."""
    seeds: Annotated[int, Ge(1)] = SEEDS
    """Runs of k-means whose V-measures are averaged."""
    name: str = ""
    """Name in the report; empty takes the test file's."""


@dataclass(frozen=True, config=STRICT)
class IsotropyConfig:
    """Texts whose vectors are described. Nothing is chosen by it."""

    path: str
    """A .txt, or a table with text, with anchor and positive, or with sentence1 and sentence2."""
    close: float = CLOSE
    """Graded pairs above this score mean the same (alignment)."""
    name: str = ""
    """Name in the report; empty takes the file's."""


def make_retrieval(config: RetrievalConfig) -> RetrievalTask:
    """The files of `config`, read and checked."""
    task = load_retrieval(config.path)
    return replace(task, name=config.name or task.name)


def make_clustering(config: ClusteringConfig) -> ClusteringTask:
    """The files of `config`, read and checked."""
    task = load_clustering(config.test, config.dev or None, config.seeds)
    return replace(task, name=config.name or f"{task.name}/clusters")


def make_isotropy(config: IsotropyConfig) -> IsotropyTask:
    """The file of `config`, read and checked."""
    task = load_isotropy(config.path, config.close)
    return replace(task, name=config.name or f"{task.name}/isotropy")
