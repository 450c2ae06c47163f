"""Options of the tasks beside similarity. Light: `--help` reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT

PairsMetric = Literal["accuracy", "f1", "ap", "auc"]
Criterion = Literal["accuracy", "f1", "precision"]
GapMetric = Literal["gap", "auc"]
Form = Literal["word", "definition", "examples"]


@dataclass(frozen=True, config=STRICT)
class PairsConfig:
    """Pairs with a yes/no label."""

    test: str
    """File of pairs that is reported on: jsonl, csv, tsv, parquet, a saved data set (folder@split) or a Hub id
    (owner/name:subset@split)."""
    dev: str = ""
    """File of pairs that chooses the threshold; without it only ap and auc are measured."""
    name: str = ""
    """Name in the report; empty takes the test file's."""
    sentence1: str = "sentence1"
    """Column of the first texts."""
    sentence2: str = "sentence2"
    """Column of the second texts."""
    label: str = "label"
    """Column of the labels, 0 or 1."""
    positive_from: float | None = None
    """Of a label column with graded scores: this much or more is a match."""
    dev_only: tuple[str, ...] = ()
    """Rows of dev that have one of these column=value."""
    dev_limit: Annotated[int, Ge(2)] | None = None
    """First rows of dev that are taken."""
    metric: PairsMetric = "accuracy"
    """The main figure, by which readings are chosen on dev."""
    criterion: Criterion = "accuracy"
    """What the threshold is chosen for on dev: best accuracy, best f1, or a wanted precision."""
    precision: Annotated[float, Gt(0), Le(1)] | None = None
    """Wanted precision of criterion precision: the smallest threshold that reaches it on dev."""


@dataclass(frozen=True, config=STRICT)
class GapConfig:
    """Relevant against irrelevant pairs of question and answer."""

    test: str
    """File of pairs that is reported on."""
    dev: str = ""
    """File of pairs by which a reading is chosen; empty leaves the choice to another task."""
    name: str = ""
    """Name in the report; empty takes the test file's and /gap."""
    question: str = "sentence1"
    """Column of the questions."""
    answer: str = "sentence2"
    """Column of the answers."""
    label: str | None = "label"
    """Column with 1 for relevant, 0 for irrelevant; null when all are relevant: others' answers are irrelevant."""
    metric: GapMetric = "gap"
    """The main figure, by which readings are chosen on dev."""
    seed: Annotated[int, Ge(0)] = 0
    """Deals out others' answers."""


@dataclass(frozen=True, config=STRICT)
class TopicsConfig:
    """Texts with the name of their class."""

    test: str
    """File of texts that is reported on: jsonl, csv, tsv, parquet, a saved data set (folder@split) or a Hub id
    (owner/name:subset@split)."""
    train: str = ""
    """File of texts that knn and probe learn from."""
    dev: str = ""
    """File of texts that chooses k, C and readings; without it a fifth of train chooses k and C."""
    name: str = ""
    """Name in the report; empty takes the test file's and the method."""
    text: str = "text"
    """Column of the texts."""
    label: str = "label"
    """Column of the class names, such as label_des of IFLYTEK."""
    classes: tuple[str, ...] = ()
    """Keep the rows of these classes alone; empty keeps all."""
    method: Literal["zero_shot", "knn", "probe"] = "zero_shot"
    """Nearest label text, k nearest train texts, or logistic regression on train vectors."""
    form: Form = "word"
    """Label texts of zero_shot: the class name, its definition, or its definition with examples."""
    labels: str = ""
    """YAML or JSON file: class name -> definition, or -> {definition, examples}."""
    calibrated: bool = False
    """Subtract each label text's mean similarity to the dev texts."""
    neighbours: Annotated[tuple[Annotated[int, Ge(1)], ...], Len(1)] = (1, 3, 5, 10, 20, 50)
    """Candidate k of knn."""
    strengths: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """Candidate C of probe: inverse strengths of its regularisation."""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """The main figure, by which k, C and readings are chosen on dev."""


@dataclass(frozen=True, config=STRICT)
class RetrievalConfig:
    """A test collection: corpus, queries, qrels; dev_queries and dev_qrels if there are any."""

    path: str
    """Folder with corpus.jsonl, queries.jsonl, qrels.jsonl (csv, tsv, parquet as well), or their common prefix,
    or a Hub id in mteb's layout, such as mteb/scifact."""
    name: str = ""
    """Name in the report; empty takes the corpus file's."""


@dataclass(frozen=True, config=STRICT)
class ClusteringConfig:
    """Labelled texts; k-means looks for as many clusters as there are labels."""

    test: str
    """File of labelled texts that is reported on."""
    dev: str = ""
    """File by which a reading is chosen; empty leaves the choice to the similarity dev file."""
    text: str = "text"
    """Column of the texts."""
    label: str = "label"
    """Column of the class names."""
    limit: Annotated[int, Ge(2)] | None = None
    """First rows of each file that are taken."""
    seeds: Annotated[int, Ge(1)] = 5
    """Runs of k-means whose V-measures are averaged."""
    name: str = ""
    """Name in the report; empty takes the test file's."""


@dataclass(frozen=True, config=STRICT)
class IsotropyConfig:
    """Texts whose vectors are described. Nothing is chosen by it."""

    path: str
    """A .txt, or a table with text, with anchor and positive, or with sentence1 and sentence2."""
    close: float = 4.0
    """Graded pairs above this score mean the same (alignment)."""
    name: str = ""
    """Name in the report; empty takes the file's."""
