"""`dec2vec encode`: a file of texts, or images -> a file of vectors, row i for input i."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import SidedEncoderArgs
from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from dec2vec.files.atomic import check_output
from dec2vec.prompts.ensembles import check_prompt

if TYPE_CHECKING:
    from dec2vec.corpus.encode_shards import ShardWork
    from dec2vec.corpus.image_inputs import Source


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncodeArgs(SidedEncoderArgs):
    """Embed the texts of a file, or the images of a folder or a column."""

    model: str
    """Run folder, model folder or Hub id."""
    input: Path
    """Texts: lines of a .txt file, or a column of a .jsonl, .csv, .tsv or .parquet file. Images: a folder of them."""
    output: Path
    """.npy file (float32 matrix) or .parquet file (columns text, image and embedding); a folder with shard_rows."""
    column: str = "text"
    """Column of the texts. Not used for a .txt file. With image_column `text` may be absent; "" is images alone."""
    image_column: str | None = None
    """Column of images: paths from the folder of the file, bytes, or an Image column of datasets."""
    image_root: Path | None = None
    """No image may lie outside this folder, not even through a link. None is the folder of the file or of the images.
    """
    max_pixels: Annotated[int, Ge(1), Le(178_956_970)] | None = None
    """An image of more pixels is refused before it is decoded. None is 64,000,000."""
    shard_rows: Annotated[int, Ge(1)] | None = None
    """Write shards of this many rows, with one shard in memory: for files of any size, also under torchrun. A killed
    job resumes."""
    shard_format: Literal["npy", "parquet"] = "npy"
    """Format of the shards."""
    normalize: bool = True
    """Scale vectors to length 1."""

    @property
    def source(self) -> Source:
        """What is embedded."""
        from dec2vec.corpus.image_inputs import Source

        limit = ModelConfig().max_pixels if self.max_pixels is None else self.max_pixels
        return Source(self.input, self.column, self.image_column, self.image_root, limit)

    def model_config(self, name: str) -> ModelConfig:
        """As for texts, with the largest image."""
        return replace(super().model_config(name), max_pixels=self.source.max_pixels)


def encode_command(args: EncodeArgs) -> None:
    """Embed the texts and write their vectors. Mistakes are refused before the model is loaded."""
    if args.prompt is not None:
        check_prompt(args.prompt)
    from dec2vec.corpus.image_inputs import check_image_options

    check_image_options(args.input, args.image_column, args.image_root)
    if args.shard_rows is not None:
        _encode_in_shards(args)
        return
    check_output(args.output, [".npy", ".parquet"], inputs=[args.input])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("encode under torchrun writes shards: add --shard_rows 100000, with --output a folder")
    block = args.source.everything()
    from dec2vec.corpus.inputs import load_encoder, saying_what_is_cut
    from dec2vec.corpus.vector_files import write_vectors

    encoder = load_encoder(args.model_config(args.model), args.changes)
    with saying_what_is_cut(encoder):
        vectors = encoder.encode(block.inputs, normalize=args.normalize, **vars(args.encode_options))
    write_vectors(args.output, block.texts, vectors, block.images)
    sys.stderr.write(f"{len(vectors)} vectors of {vectors.shape[1]} dimensions: {args.output}\n")


def _encode_in_shards(args: EncodeArgs) -> None:
    """Each process of torchrun encodes its share of the shards on its own device."""
    from dec2vec.corpus.encode_shards import encode_shards
    from dec2vec.corpus.inputs import load_encoder, saying_what_is_cut
    from dec2vec.fingerprint import fingerprint

    work = shard_work(args)
    next(work.source.blocks(1), None)  # a mistake in the input is reported before the model is loaded
    encoder = load_encoder(args.model_config(args.model), args.changes)
    weights = fingerprint(encoder)
    if work.source.has_images:
        weights += encoder.image_reader.digest
    with saying_what_is_cut(encoder):
        encode_shards(work, encoder, weights)


def shard_work(args: EncodeArgs) -> ShardWork:
    """The part of the work that is this process's. UserError for an output that can't be a folder of shards."""
    from dec2vec.corpus.encode_shards import ShardWork, check_shard_folder

    assert args.shard_rows is not None
    check_shard_folder(args.output)
    return ShardWork(
        args.source,
        args.output,
        args.shard_rows,
        args.shard_format,
        replace(args.encode_options, progress=False),
        normalize=args.normalize,
        rank=_number("RANK", 0),
        world=_number("WORLD_SIZE", 1),
    )


def _number(name: str, default: int) -> int:
    """A variable of torchrun."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UserError(f"{name}={value} in the environment is not a number; start with torchrun, or unset it")
    return int(value)
