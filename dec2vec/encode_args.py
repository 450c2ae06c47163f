"""Options of `dec2vec encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


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
