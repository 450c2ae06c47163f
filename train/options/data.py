"""The options of training rows, and of the hard negatives that are mined among them."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from train.options.losses import LossConfig

Kind = Literal["pairs", "graded", "texts", "labelled"]


@dataclass(frozen=True, config=STRICT)
class SourceConfig:
    """One set of training rows."""

    path: str = ""
    """File (jsonl, csv, tsv, parquet, json; also .gz and .zst), folder or pattern (`part-*.jsonl`) of such files, BEIR
    folder, folder written by `datasets.save_to_disk`, or Hub id. Layouts of other trainers are recognised."""
    split: str = "train"
    """Split of a saved or Hub data set. Files have no splits."""
    subset: str | None = None
    """Configuration of a Hub data set that has several, such as `triplet` of sentence-transformers/all-nli."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    kind: Kind = "pairs"
    """Kind of rows: an anchor with a matching text (pairs), two texts with a score (graded), a single text, embedded
    twice with different dropout (texts), or a text with its class (labelled)."""
    anchor: str = "anchor"
    """pairs: column of the queries."""
    positive: str = "positive"
    """pairs: column of the matching texts."""
    negatives: tuple[str, ...] | None = None
    """pairs: columns of hard negatives. None uses `negative`, `negative_1`, `negative_2`, ... if they exist."""
    document_id: str | None = None
    """pairs: column of document ids. Rows with equal ids are not used as negatives of each other."""
    corpus: str | None = None
    """pairs: documents that rows name by id. None uses the file or folder `corpus` or `collection` beside the rows."""
    queries: str | None = None
    """pairs: queries that rows name by id. None uses `queries` beside the rows."""
    min_grade: Annotated[int, Ge(1)] = 1
    """pairs: lowest grade of a judgement (BEIR's qrels) that makes its document a positive."""
    bad_rows: Annotated[float, Ge(0.0), Le(1.0)] = 0.01
    """pairs: largest fraction of faulty rows (no positive, an unknown id) that are left out of a recognised layout."""
    sentence1: str = "sentence1"
    """graded: column of the first texts."""
    sentence2: str = "sentence2"
    """graded: column of the second texts."""
    score: str = "score"
    """graded: column of similarity scores. Only their order is used."""
    text: str = "text"
    """texts and labelled: column of the texts."""
    label: str = "label"
    """labelled: column of the classes. Equal values are the same class in all sources of a batch."""
    texts_per_label: Annotated[int, Ge(2)] = 2
    """labelled: number of texts of a label in one batch; all of them if the label has fewer."""
    query_prompt: str | None = None
    """Prompt of the anchors, and of all texts of the other kinds. The layer remains the model's. None uses the model's
    prompt."""
    document_prompt: str | None = None
    """pairs: prompt of positives and negatives. None uses the model's prompt."""
    losses: tuple[LossConfig, ...] = ()
    """Losses of batches from this source. Empty uses the run's `loss`."""
    clean: bool = False
    """Drop rows with an empty text, repeated rows, and pairs whose anchor equals the positive."""
    only: tuple[str, ...] = ()
    """Use only rows in which a column has one of these values: [source=mrpc, source=qqp] keeps both. Empty keeps all
    rows."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many rows, the first of those kept by `only`."""
    streaming: bool = False
    """Keep the rows on disk and not in memory, for sources of any size: they come in shuffled blocks. They are checked
    once, and stay in the cache of `datasets`."""
    weight: Annotated[float, Gt(0.0), Le(1e6)] | None = None
    """With `batch.sources single`: probability that a batch comes from this source, relative to the other sources. None
    for all sources uses their numbers of rows."""


@dataclass(frozen=True, config=STRICT)
class MiningConfig:
    """Hard negatives for pairs, mined during training with the current model. `dec2vec mine` mines them before
    training."""

    every: Annotated[int, Ge(1)] | None = None
    """Number of steps between searches among the positives of a source, and before the first one. None disables
    mining."""
    negatives: Annotated[int, Ge(1), Le(100)] = 1
    """Number of mined negatives per pair, in addition to those of the data."""
    min_rank: Annotated[int, Ge(1)] = 1
    """First rank by cosine that is considered. Texts equal to the anchor or a positive are not counted."""
    max_rank: Annotated[int, Ge(1)] = 100
    """Last rank that is considered."""
    choice: Literal["top", "random"] = "top"
    """How to choose among the accepted candidates: top takes the highest scores, random draws with the seed."""
    margin: Annotated[float, Ge(0.0)] = 0.0
    """Reject candidates that score above the positive's score minus this value."""
    ratio: Annotated[float, Gt(0.0), Le(1.0)] = 0.95
    """Reject candidates that score above this fraction of the positive's score."""
