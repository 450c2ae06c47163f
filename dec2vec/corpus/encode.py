"""`dec2vec encode`: a file of texts -> a file of vectors, row i for text i."""

from __future__ import annotations

import os
import sys

from dec2vec.corpus.args import EncodeArgs
from dec2vec.corpus.inputs import load_encoder
from dec2vec.corpus.vector_files import write_vectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import check_output
from dec2vec.files.tables import block_texts, iter_tables, read_texts
from dec2vec.prompts.ensembles import check_prompt


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
    from dec2vec.corpus.encode_shards import encode_shards, plan_work

    work = plan_work(args)
    first = next(iter_tables(args.input, 1), None)  # what is wrong with the input shows before the model is loaded
    if first is not None:
        block_texts(args.input, first, args.column)
    encoder = load_encoder(args)
    from dec2vec.fingerprint import fingerprint

    encode_shards(work, encoder, fingerprint(encoder))
