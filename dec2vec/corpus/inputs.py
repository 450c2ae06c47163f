"""What the verbs of this folder share: loading the encoder, reading texts or vectors, and writing rows."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from dec2vec.config.encoder_args import SidedEncoderArgs
from dec2vec.config.model import ModelConfig
from dec2vec.corpus.vector_files import holds_vectors, open_vectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, written
from dec2vec.files.tables import read_texts
from dec2vec.prompts.cut_texts import CutTexts
from dec2vec.prompts.ensembles import check_prompt
from dec2vec.text_tables import plain_table

if TYPE_CHECKING:
    from dec2vec.encoder import Encoder

Rows = Float32[np.ndarray, "rows dim"]
SHOWN = 60
"""Number of characters of a text that are printed."""
PRINTED_ROWS = 10
"""Number of rows of a table that are printed."""


def read_corpus(path: Path, column: str, model: str | None, args: SidedEncoderArgs) -> tuple[Rows, list[str] | None]:
    """All vectors of a file, and its texts if it is a file of texts, which `model` embeds. UserError without one."""
    if holds_vectors(path):
        if model is not None:
            raise UserError(f"{path} already contains vectors; remove --model, or give a file of texts")
        return open_vectors(path).everything(), None
    if model is None:
        raise UserError(f"{path} contains texts; add --model to embed them")
    texts = read_texts(path, column)
    return embed(texts, model, args), texts


def embed(texts: Sequence[str], model: str, args: SidedEncoderArgs) -> Rows:
    """Vectors of unit length, the same for equal texts. UserError for vectors with inf or nan."""
    if args.prompt is not None:
        check_prompt(args.prompt)
    encoder = load_encoder(args.model_config(model), args.changes)
    number = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    with saying_what_is_cut(encoder):
        vectors = encoder.encode(list(number), **vars(args.encode_options))
    if len(number) < len(texts):
        vectors = vectors[[number[text] for text in texts]]
    if not np.isfinite(vectors).all():
        raise UserError(f"model {model} gives vectors with inf or nan; run `dec2vec check {model}`")
    return vectors


@contextlib.contextmanager
def saying_what_is_cut(encoder: Encoder) -> Iterator[None]:
    """Say afterwards on stderr how many of the embedded texts `max_length` has cut."""
    cuts = encoder.cut_texts = CutTexts()
    yield
    if cuts.cut:
        sys.stderr.write(cuts.line(encoder.max_length))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines. After a crash the file is complete or absent."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not text.isascii():
        from dec2vec.prompts.tokenizer import clean_surrogates

        text = clean_surrogates(text)
    with written(path):
        atomic_write_text(path, text)


def print_table(rows: Sequence[Sequence[str]], *, left: Collection[int]) -> None:
    """Print the rows, of which the first is the header, as a table whose columns `left` are aligned to the left."""
    sys.stdout.write("\n".join(plain_table(rows, left=left)) + "\n")


def short(text: str) -> str:
    """The text in one line, cut if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "\u2026"


def load_encoder(config: ModelConfig, changes: Mapping[str, Any]) -> Encoder:
    """The `Encoder` of a model with changed options, on this process's own device. Its module is imported only now."""
    from dec2vec.decoder.devices import use_local_accelerator
    from dec2vec.encoder import Encoder
    from dec2vec.runtime import keep_freed_memory

    keep_freed_memory()
    if config.device != "cpu":
        use_local_accelerator()
    return Encoder.load(config, changes)
