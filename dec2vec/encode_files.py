"""`dec2vec encode`: a file of texts -> a file of vectors, row i for text i."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dec2vec.config.model import ModelConfig
from dec2vec.corpus.stream import block_texts, iter_tables
from dec2vec.encode_args import EncodeArgs
from dec2vec.errors import UserError
from dec2vec.files import fsync_directory, fsync_file
from dec2vec.output_file import check_output
from dec2vec.prompts.ensembles import check_prompt
from dec2vec.readers import read_texts


def encode_file(args: EncodeArgs) -> None:
    """Refuse what can be refused before the model is loaded; the output appears whole or not at all."""
    if args.prompt is not None:
        check_prompt(args.prompt)
    if args.shard_rows is not None:
        _encode_in_shards(args)
        return
    check_output(args.output, [".npy", ".parquet"], inputs=[args.input])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("encode under torchrun writes shards: add --shard_rows 100000, with --output a folder")
    texts = read_texts(args.input, args.column)
    encoder = load_encoder(args)
    vectors = encoder.encode(
        texts, prompt=args.prompt, side=args.side, batch_tokens=args.batch_tokens, normalize=args.normalize
    )
    write_vectors(args.output, texts, vectors)
    sys.stderr.write(f"{len(vectors)} vectors of {vectors.shape[1]} dimensions: {args.output}\n")


def _encode_in_shards(args: EncodeArgs) -> None:
    """Every process of torchrun on its own device."""
    from dec2vec.encode_shards import encode_shards, plan_work

    work = plan_work(args)
    first = next(iter_tables(args.input, 1), None)  # what is wrong with the input shows before the model is loaded
    if first is not None:
        block_texts(args.input, first, args.column)
    encoder = load_encoder(args)
    from dec2vec.fingerprint import fingerprint

    encode_shards(work, encoder, fingerprint(encoder))


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


def write_vectors(path: Path, texts: list[str], vectors: NDArray[np.float32]) -> None:
    """Under a temporary name, fsync, rename: a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        if path.suffix == ".npy":
            np.save(temporary, vectors)
        else:
            _write_parquet(temporary, texts, vectors)
        fsync_file(temporary)
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(path: Path, texts: list[str], vectors: NDArray[np.float32]) -> None:
    import pyarrow
    import pyarrow.parquet

    from dec2vec.prompts.tokenizer import clean_surrogates

    texts = [clean_surrogates(text) for text in texts]
    flat = pyarrow.array(vectors.ravel(), type=pyarrow.float32())
    embedding = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "embedding": embedding}), path)
