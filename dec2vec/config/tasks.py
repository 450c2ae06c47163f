"""The tasks of an evaluation as options: sections of `dec2vec eval`, and what training judges by.

A training run names its tasks in `eval.dev` and `eval.tests`, a list of entries of one kind each; `dec2vec eval` has a
list for each kind.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Len
from pydantic import Discriminator, Tag
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.errors import UserError

PairsMetric = Literal["accuracy", "f1", "ap", "auc"]
Criterion = Literal["accuracy", "f1", "precision"]
GapMetric = Literal["gap", "auc"]
Form = Literal["word", "definition", "examples"]


@dataclass(frozen=True, config=STRICT)
class PairsConfig:
    """Pair matching on pairs with a yes/no label."""

    test: str = ""
    """File of test pairs: jsonl, csv, tsv, parquet, a saved data set (folder@split) or a Hub id
    (owner/name:subset@split)."""
    dev: str = ""
    """File of pairs on which the threshold is selected. Without it, only ap and auc are measured."""
    name: str = ""
    """Name in the report. Empty uses the name of the test file."""
    sentence1: str = "sentence1"
    """Column of the first texts."""
    sentence2: str = "sentence2"
    """Column of the second texts."""
    label: str = "label"
    """Column of the labels, 0 or 1."""
    positive_from: float | None = None
    """Smallest score that is a match, if the label column contains scores."""
    dev_only: tuple[str, ...] = ()
    """Use only dev rows in which a column has one of these values: [column=value]."""
    dev_limit: Annotated[int, Ge(2)] | None = None
    """Use at most this many rows of dev."""
    metric: PairsMetric = "accuracy"
    """Main metric, by which settings are selected on dev."""
    criterion: Criterion = "accuracy"
    """How the threshold is selected on dev: best accuracy, best f1, or a required precision."""
    precision: Annotated[float, Gt(0), Le(1)] | None = None
    """Required precision for criterion precision. The smallest threshold that reaches it on dev is used."""


@dataclass(frozen=True, config=STRICT)
class GapConfig:
    """Similarity gap between relevant and irrelevant pairs of question and answer."""

    test: str = ""
    """File of test pairs."""
    dev: str = ""
    """File of pairs on which settings are selected. Empty uses the similarity dev file."""
    name: str = ""
    """Name in the report. Empty uses the name of the test file and /gap."""
    question: str = "sentence1"
    """Column of the questions."""
    answer: str = "sentence2"
    """Column of the answers."""
    label: str | None = "label"
    """Column with 1 for relevant and 0 for irrelevant. null means that all rows are relevant and answers of other rows
    are irrelevant."""
    metric: GapMetric = "gap"
    """Main metric, by which settings are selected on dev."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the assignment of other rows' answers."""


@dataclass(frozen=True, config=STRICT)
class TopicsConfig:
    """Classification of texts with class names."""

    test: str = ""
    """File of test texts: jsonl, csv, tsv, parquet, a saved data set (folder@split) or a Hub id
    (owner/name:subset@split)."""
    train: str = ""
    """File of training texts for knn and probe."""
    dev: str = ""
    """File of texts on which k, C and settings are selected. Without it, k and C are selected on a fifth of train."""
    name: str = ""
    """Name in the report. Empty uses the name of the test file and the method."""
    text: str = "text"
    """Column of the texts."""
    label: str = "label"
    """Column of the class names, such as label_des of IFLYTEK."""
    classes: tuple[str, ...] = ()
    """Keep only rows of these classes. Empty keeps all."""
    method: Literal["zero_shot", "knn", "probe"] = "zero_shot"
    """zero_shot uses the nearest label text, knn the k nearest training texts, probe a logistic regression on training
    vectors."""
    form: Form = "word"
    """Label texts for zero_shot: the class name, its definition, or its definition with examples."""
    labels: str = ""
    """YAML or JSON file that maps class names to definitions, or to {definition, examples}."""
    calibrated: bool = False
    """Subtract the mean similarity of each label text to the dev texts."""
    neighbours: Annotated[tuple[Annotated[int, Ge(1)], ...], Len(1)] = (1, 3, 5, 10, 20, 50)
    """Candidate values of k for knn."""
    strengths: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """Candidate values of C for probe (inverse regularization strength)."""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """Main metric, by which k, C and settings are selected on dev."""


@dataclass(frozen=True, config=STRICT)
class RetrievalConfig:
    """Retrieval on a test collection: corpus, queries and qrels, and dev_queries and dev_qrels if they exist."""

    path: str
    """Folder with corpus.jsonl, queries.jsonl and qrels.jsonl (or csv, tsv, parquet), their common prefix, or a Hub id
    with the layout of mteb (mteb/scifact) or NanoBEIR (owner/name@NanoMSMARCO), also as saved folders."""
    name: str = ""
    """Name in the report. Empty uses the name of the corpus file."""
    ignore_identical_ids: bool | None = None
    """Leave the document whose id is the query's own out of its ranking, unless it is judged relevant. null does so in
    the layouts of BEIR and mteb, where queries may be documents (ArguAna, Quora)."""


@dataclass(frozen=True, config=STRICT)
class ClusteringConfig:
    """Clustering of labelled texts by k-means, with as many clusters as labels."""

    test: str = ""
    """File of labelled test texts."""
    dev: str = ""
    """File on which settings are selected. Empty uses the similarity dev file."""
    text: str = "text"
    """Column of the texts."""
    label: str = "label"
    """Column of the class names."""
    limit: Annotated[int, Ge(2)] | None = None
    """Use at most this many rows of each file."""
    seeds: Annotated[int, Ge(1)] = 5
    """Number of k-means runs whose V-measures are averaged."""
    name: str = ""
    """Name in the report. Empty uses the name of the test file."""


@dataclass(frozen=True, config=STRICT)
class TaskConfig:
    """A task: one of these sections."""

    similarity: str | None = None
    """Similarity file: sentence1, sentence2 and score. A path in place of a section says the same."""
    pairs: PairsConfig | None = None
    """Pair matching."""
    gap: GapConfig | None = None
    """Similarity of relevant answers compared with irrelevant ones."""
    topics: TopicsConfig | None = None
    """Topic classification."""
    clustering: ClusteringConfig | None = None
    """k-means clusters compared with labels."""
    retrieval: RetrievalConfig | None = None
    """Retrieval of documents for queries."""
    mteb: str | None = None
    """Name of an MTEB task (among tests also of a benchmark). The mteb package runs it, with data from the Hub."""

    @property
    def title(self) -> str:
        """A name for readers: that of the section, or of its file or folder."""
        kind = given_sections(self)[0]
        if kind in ("mteb", "held_out"):
            return HELD_OUT if kind == "held_out" else f"mteb/{self.mteb}"
        name = getattr(getattr(self, kind), "name", "")
        paths = dict(task_paths(self))
        order = (f"{kind}.dev", f"{kind}.test", f"{kind}.path", kind)
        return name or Path(next(paths[option] for option in order if option in paths)).stem


@dataclass(frozen=True, config=STRICT)
class DevTaskConfig(TaskConfig):
    """A task that chooses the best checkpoint. It is measured on its dev data, or on `test` if it has none."""

    held_out: Annotated[int, Ge(2)] | None = None
    """Number of queries of the training pairs that are held out, chosen by a hash of the text. Rows that share an
    anchor or a positive with them are not trained on either."""
    limit: Annotated[int, Ge(2)] | None = None
    """Use at most this many queries, pairs or texts, chosen by a hash of the text. null uses all. Of an MTEB task its
    subsets share them."""
    documents: Annotated[int, Ge(1)] | None = None
    """Search among at most this many documents, the relevant ones included; of a classifier the number of its training
    texts. null uses all, and for held-out pairs five for each query."""


HELD_OUT = "held-out"
"""The name of the task of held-out pairs."""
SECTIONS = ("similarity", "pairs", "gap", "topics", "clustering", "retrieval", "mteb", "held_out")
"""The kinds of tasks."""
PATHS = {
    "pairs": ("test", "dev"),
    "gap": ("test", "dev"),
    "topics": ("test", "train", "dev", "labels"),
    "clustering": ("test", "dev"),
    "retrieval": ("path",),
}
"""Options of a section that name a file, a folder or a Hub id."""
_PATH, _LIST, _NONE, _TASK = "<path>", "<list>", "<none>", "<task>"


def _form(value: object) -> str:
    """Which form of `eval.dev` or of one of its entries a value has, so that a mistake in it is told as such."""
    return _NONE if value is None else _LIST if isinstance(value, (list, tuple, dict)) else _PATH


def _entry_form(value: object) -> str:
    return _PATH if isinstance(value, str) else _TASK


DevEntry = Annotated[Annotated[str, Tag(_PATH)] | Annotated[DevTaskConfig, Tag(_TASK)], Discriminator(_entry_form)]
DevTasks = Annotated[
    Annotated[str, Tag(_PATH)] | Annotated[tuple[DevEntry, ...], Tag(_LIST)] | Annotated[None, Tag(_NONE)],
    Discriminator(_form),
]
"""A similarity file, or any number of tasks."""
TestEntry = Annotated[Annotated[str, Tag(_PATH)] | Annotated[TaskConfig, Tag(_TASK)], Discriminator(_entry_form)]
TestTasks = tuple[TestEntry, ...]
"""Similarity files and tasks."""


def given_sections(task: TaskConfig) -> list[str]:
    """The names of the sections that are not null."""
    return [name for name in SECTIONS if getattr(task, name, None) is not None]


def is_task(entry: object) -> bool:
    """Whether an entry of a list is a task, and not a row of data.

    A dict is a row if it has a column `sentence1`, `sentence2` or `score`, or a list of cells. Otherwise it is a task
    if all its keys are options of a task or nearly so (`heldout`), or if at least half of them are; and a row if not.
    """
    if not isinstance(entry, Mapping) or not entry or not {"sentence1", "sentence2", "score"}.isdisjoint(entry):
        return False
    if any(isinstance(value, (list, tuple)) for value in entry.values()):
        return False
    options = [field.name for field in dataclasses.fields(DevTaskConfig)]
    close = [difflib.get_close_matches(str(key).lower(), options, n=1, cutoff=0.75) for key in entry]
    return all(close) or 2 * sum(key in options for key in entry) >= len(entry)


def check_task(name: str, task: TaskConfig) -> None:
    """Raise UserError unless exactly one section is given, and only with options that it reads."""
    found, bounds = given_sections(task), [b for b in ("limit", "documents") if getattr(task, b, None) is not None]
    if len(found) != 1:
        what = "has " + " and ".join(found) if found else "has no section"
        raise UserError(f"config error: {name} {what}; give one of {', '.join(SECTIONS)}, and each in its own entry")
    unread = {"held_out": ["limit"], "mteb": [], "retrieval": [], "topics": []}
    wrong = next((bound for bound in bounds if bound in unread.get(found[0], ["documents"])), None)
    if wrong is not None:
        raise UserError(f"config error: {name}.{wrong} is not used by {found[0]}; remove it")


def task_paths(task: TaskConfig) -> Iterator[tuple[str, str]]:
    """Each path of a task with its option, such as `retrieval.path`."""
    if task.similarity is not None:
        yield "similarity", task.similarity
    for section, options in PATHS.items():
        for option in options:
            path = getattr(getattr(task, section), option, None)
            if path:
                yield f"{section}.{option}", path


T = TypeVar("T", bound=TaskConfig)


def with_paths(task: T, change: Callable[[str], str]) -> T:
    """The task with every path changed."""
    changed: dict[str, Any] = {}
    for option, path in task_paths(task):
        section, dot, key = option.partition(".")
        if not dot:
            changed[section] = change(path)
            continue
        changed[section] = dataclasses.replace(changed.get(section) or getattr(task, section), **{key: change(path)})
    return dataclasses.replace(task, **changed)
