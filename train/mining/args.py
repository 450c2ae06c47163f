"""Options of `dec2vec mine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class MineArgs:
    """Find hard negatives for training pairs and write them beside the pairs."""

    pairs: str
    """Training pairs: a .jsonl, .csv, .tsv or .parquet, a saved data set or a Hub id."""
    model: str
    """Encoder that searches: a run folder, a model folder or sentence-transformers folder, or the Hub id of one."""
    output: Path
    """.jsonl to write: anchor, positive, negative_1 ..., their scores, and the input's other columns."""
    corpus: Path | None = None
    """Texts to search: lines of a .txt, or a column of a table; None takes the positives of all pairs."""
    corpus_column: str = "text"
    """Column of the corpus; a .txt has none."""
    anchor: str = "anchor"
    """Column of the queries."""
    positive: str = "positive"
    """Column of the matching texts."""
    only: tuple[str, ...] = ()
    """Mine only for rows where a column has a value: [source=mrpc]; empty takes all. Positives of the others stay in
    the corpus and are never negatives of an anchor that is theirs too."""
    limit: Annotated[int, Ge(1)] | None = None
    """Mine only for the first rows of those."""
    negatives: Annotated[int, Ge(1), Le(1000)] = 4
    """Wanted for each pair; a pair with fewer that pass is kept with those."""
    min_rank: Annotated[int, Ge(1)] = 1
    """First place of the window, by cosine; texts equal to anchor or positives don't count."""
    max_rank: Annotated[int, Ge(1)] = 100
    """Last place of the window."""
    index: Literal["flat", "hnsw", "ivf"] = "flat"
    """flat compares all; hnsw and ivf are faster on large corpora and report their recall."""
    choice: Literal["top", "random"] = "top"
    """Which of those that pass: the highest scores, or a seeded draw."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Of the draw."""
    max_score: float | None = None
    """Refuse candidates above this score."""
    min_score: float | None = None
    """Refuse candidates below it: too easy."""
    margin: Annotated[float, Ge(0.0)] = 0.0
    """A negative's score is at most the positive's minus this."""
    ratio: Annotated[float, Gt(0.0), Le(1.0)] = 0.95
    """A negative's score is at most this share of the positive's (TopK-PercPos of NV-Retriever, 2024)."""
    cross_encoder: str | None = None
    """sentence-transformers CrossEncoder whose scores replace the cosines in all rules and in the order."""
    teacher: str | None = None
    """Second encoder; refuse candidates that it does not put below the positive by margin and ratio too."""
    prompt: str | None = None
    """Prompt of --model, a name or a template; None takes the model's own."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Padded tokens of one forward pass: bounds the memory."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens kept of a text with its prompt; None takes the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""
