"""The encoder and the texts or vectors that the verbs on collections read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from dec2vec.config.model import ModelConfig
from dec2vec.corpus.args import DedupArgs, EncodeArgs, OutliersArgs, SearchArgs
from dec2vec.corpus.vector_files import holds_vectors, open_vectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text
from dec2vec.files.tables import read_texts
from dec2vec.prompts.ensembles import check_prompt

Rows = Float32[np.ndarray, "rows dim"]
SHOWN = 60
"""Characters of a text on the terminal."""


def read_corpus(args: DedupArgs | OutliersArgs) -> tuple[Rows, list[str] | None]:
    """All vectors in memory, and the texts where the input has them. UserError for texts without a model."""
    if holds_vectors(args.input):
        if args.model is not None:
            raise UserError(f"{args.input} holds vectors already; remove --model, or give a file of texts")
        return open_vectors(args.input).everything(), None
    if args.model is None:
        raise UserError(f"{args.input}: texts need --model to become vectors")
    texts = read_texts(args.input, args.column)
    return embed(args, args.model, texts), texts


def embed(args: DedupArgs | OutliersArgs | SearchArgs, model: str, texts: Sequence[str]) -> Rows:
    """(texts, d) of unit length. UserError for vectors with inf or nan."""
    from dec2vec.corpus.args import EncodeArgs

    if args.prompt is not None:
        check_prompt(args.prompt)
    encoder = load_encoder(
        EncodeArgs(
            model=model,
            input=Path(),
            output=Path(),
            device=args.device,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            max_length=args.max_length,
        )
    )
    vectors: Rows = encoder.encode(texts, prompt=args.prompt, side=args.side, batch_tokens=args.batch_tokens)
    if not np.isfinite(vectors).all():
        raise UserError(f"model {model}: gives vectors with inf or nan; see `dec2vec check {model}`")
    return vectors


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not text.isascii():
        from dec2vec.prompts.tokenizer import clean_surrogates

        text = clean_surrogates(text)
    try:
        atomic_write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def short(text: str) -> str:
    """One line of a text."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "\u2026"


def load_encoder(args: EncodeArgs) -> Any:
    """The `Encoder` of the options, whose module is imported only now, on this process's own device."""
    import torch

    from dec2vec.encoder import Encoder
    from dec2vec.runtime import keep_freed_memory

    keep_freed_memory()
    if "LOCAL_RANK" in os.environ and args.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    encoder = Encoder.load(_model(args))
    if args.max_length is not None:
        encoder.set_max_length(args.max_length)
    return encoder


def _model(args: EncodeArgs) -> ModelConfig:
    return ModelConfig(
        name_or_path=args.model,
        revision=args.revision,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
    )
