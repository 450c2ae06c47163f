"""Options of `dec2vec index`, `search`, `dedup` and `outliers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class IndexArgs:
    """Build a FAISS index over vectors, and measure its recall."""

    vectors: Path
    """What `dec2vec encode` wrote: a .npy, a .parquet or a folder of shards."""
    output: Path
    """File of the index."""
    kind: Literal["flat", "hnsw", "ivf-pq"] = "flat"
    """flat compares all; hnsw is fast; ivf-pq is small, for corpora larger than memory."""
    code_bytes: Annotated[int, Ge(1)] | None = None
    """Parts of a vector that ivf-pq codes on their own; None takes up to 64."""
    sample: Annotated[int, Ge(1)] = 100
    """Rows whose ten nearest others are compared with the exact ones."""
    seed: int = 0
    """Draws the sample, and what ivf-pq is trained on."""


@dataclass(frozen=True, config=STRICT)
class SearchArgs:
    """Search an index for the texts of a file."""

    index: Path
    """What `dec2vec index` wrote."""
    model: str
    """Run folder, model folder or Hub id that the vectors were made with."""
    queries: Path
    """Texts: lines of a .txt, or a column of a .jsonl, .csv, .tsv or .parquet."""
    output: Path
    """.jsonl: one line for each query and hit, best first."""
    k: Annotated[int, Ge(1)] = 10
    """Hits of each query."""
    column: str = "text"
    """Column of the queries; a .txt has none."""
    texts: Path | None = None
    """The file that was indexed, so that hits show their text."""
    texts_column: str = "text"
    """Column of these texts."""
    prompt: str | None = None
    """Prompt name, or a template with one {text}; None takes the model's own."""
    side: Literal["query", "document"] = "query"
    """Which half of a two-sided prompt."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Padded tokens of one forward pass: bounds the memory."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens kept of a text with its prompt; None takes the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""


@dataclass(frozen=True, config=STRICT)
class DedupArgs:
    """Find near-duplicates among texts or vectors."""

    input: Path
    """Texts (with --model), or vectors that `dec2vec encode` wrote."""
    output: Path
    """.jsonl: one line for each group, with its rows and the one that is kept, the earliest."""
    threshold: Annotated[float, Gt(0), Le(1)] = 0.95
    """Cosine from which on two rows are duplicates; chains of such pairs make a group."""
    method: Literal["exact", "hnsw"] = "exact"
    """exact compares all with all; hnsw is for more rows than that allows, and may miss some."""
    model: str | None = None
    """Run folder, model folder or Hub id; of texts only."""
    column: str = "text"
    """Column of the texts; a .txt has none."""
    prompt: str | None = None
    """Prompt name, or a template with one {text}; None takes the model's own."""
    side: Literal["query", "document"] = "query"
    """Which half of a two-sided prompt."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Padded tokens of one forward pass: bounds the memory."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens kept of a text with its prompt; None takes the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""


@dataclass(frozen=True, config=STRICT)
class OutliersArgs:
    """Order texts or vectors by how far their nearest neighbours are."""

    input: Path
    """Texts (with --model), or vectors that `dec2vec encode` wrote."""
    output: Path
    """.jsonl: one line for each row, the furthest first."""
    k: Annotated[int, Ge(1)] = 10
    """Neighbours whose mean distance (1 - cosine) counts."""
    method: Literal["exact", "hnsw"] = "exact"
    """exact compares all with all; hnsw is for more rows than that allows, and may miss some."""
    model: str | None = None
    """Run folder, model folder or Hub id; of texts only."""
    column: str = "text"
    """Column of the texts; a .txt has none."""
    prompt: str | None = None
    """Prompt name, or a template with one {text}; None takes the model's own."""
    side: Literal["query", "document"] = "query"
    """Which half of a two-sided prompt."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Padded tokens of one forward pass: bounds the memory."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens kept of a text with its prompt; None takes the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""


@dataclass(frozen=True, config=STRICT)
class EncodeArgs:
    """Write the vectors of a file of texts."""

    model: str
    """Run folder, model folder or Hub id."""
    input: Path
    """Texts: lines of a .txt, or a column of a .jsonl, .csv, .tsv or .parquet."""
    output: Path
    """.npy (float32 matrix) or .parquet (columns text and embedding); with shard_rows a folder."""
    column: str = "text"
    """Column of the texts; a .txt has none."""
    prompt: str | None = None
    """Prompt name, or a template with one {text}; None takes the model's own."""
    side: Literal["query", "document"] = "query"
    """Which half of a two-sided prompt: with instruct, documents go without the instruction."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Padded tokens of one forward pass: bounds the memory."""
    shard_rows: Annotated[int, Ge(1)] | None = None
    """Rows of a shard, of which one is in memory: for files of any size, also under torchrun. Killed, it goes on."""
    shard_format: Literal["npy", "parquet"] = "npy"
    """Format of the shards."""
    normalize: bool = True
    """Scale vectors to length 1."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens kept of a text with its prompt; None takes the model's own (512 of an untuned one)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""
