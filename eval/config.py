"""Every option of an evaluation: the tuned runs, the untuned systems beside them, the tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig, PoolingName

PostName = Literal[
    "raw",
    "centre",
    "standardise",
    "abtt",
    "pca",
    "whiten",
    "shrunk_whiten",
    "soft_whiten",
    "embfilter",
    "random",
    "truncate",
]


@dataclass(frozen=True, config=STRICT)
class SystemsConfig:
    """The untuned systems: every prompt with every pooling and every post-processing."""

    prompts: tuple[str, ...] = ("bare", "prompteol", "pretended_cot", "knowledge_enhancement", "instruct")
    """Prompt names or templates with one {text}."""
    poolings: tuple[PoolingName, ...] = ("last", "mean", "weighted_mean", "first_last", "max")
    """Poolings tried with each prompt."""
    layers: tuple[int | float, ...] = ()
    """Candidate layers; empty means all up to 12, else 12 spread evenly, always with -1 and -2."""
    post: Annotated[tuple[PostName, ...], MinLen(1)] = ("raw", "whiten")
    """Post-processings, each a row with its own layer and strength: raw, centre, standardise, abtt, pca, whiten,
    shrunk_whiten, soft_whiten, embfilter, random, truncate."""
    dimensions: tuple[int, ...] = ()
    """Candidate k of the post-processings that have one; empty means d, 3d/4, d/2, d/3, d/4, d/8."""
    norm: bool = False
    """Also read inner layers through the decoder's final norm."""
    transductive: bool = False
    """Also whiten each file with its own sentences: labelled rows that are never chosen."""


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    """An evaluation run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    """The untuned decoder; its prompt, pooling and layer are overridden by the systems."""
    tuned: tuple[str, ...] = ()
    """Run folders (or exported adapters) to compare with it."""
    dev: str = ""
    """Similarity file on which layer and post-processing are chosen (or a Hub id, owner/name:subset@split); empty,
    and no tests, for other tasks alone."""
    tests: tuple[str, ...] = ()
    """Similarity files that are reported on."""
    fit: tuple[str, ...] = ()
    """Training-side text that post-processings are fitted on: pair files or plain .txt."""
    whitening_sentences: Annotated[int, Ge(2)] = 8000
    """Sentences taken from `fit`."""
    systems: SystemsConfig = Field(default_factory=SystemsConfig)
    pairs: tuple[PairsConfig, ...] = ()
    """Pair matching: yes or no from a threshold that dev chooses."""
    gap: tuple[GapConfig, ...] = ()
    """Relevant answers against irrelevant ones."""
    topics: tuple[TopicsConfig, ...] = ()
    """Topic classification: nearest label text, neighbours, probe."""
    clustering: tuple[ClusteringConfig, ...] = ()
    """k-means against labels."""
    retrieval: tuple[RetrievalConfig, ...] = ()
    """Queries that look for documents."""
    isotropy: tuple[IsotropyConfig, ...] = ()
    """How evenly vectors fill their space."""
    mteb: tuple[str, ...] = ()
    """Names of MTEB tasks, run by the mteb package; their data come from the Hub."""
    baselines: tuple[str, ...] = ()
    """Outside baselines: bag-of-words, tfidf, char-ngrams, word2vec, word2vec-sif, input-embeddings and sif (the
    decoder's own, plain and weighted), jaccard, dice, bleu, chrf, rouge-l,
    or the folder or Hub id of any sentence-transformers or Hugging Face encoder."""
    cache: str | None = None
    """Folder in which vectors are kept for the next evaluation; null takes output_dir/vectors, "" keeps none."""
    batch_tokens: Annotated[int, Ge(1)] = 16384
    """Padded tokens of one forward pass."""
    bootstrap: Annotated[int, Ge(100)] = 1000
    """Resamples behind each 95 % interval."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the bootstrap and of the sample of fit sentences."""
    output_dir: str = "runs/eval"
    """Folder that receives report/."""


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
