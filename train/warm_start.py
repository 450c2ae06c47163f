"""A published embedder as the base of a run: what the run takes from it, and what training can't do with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_files import find_published
from dec2vec.decoder.model_folders import find
from dec2vec.decoder.published import PublishedModel
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import PUBLISHED, Prompt

_log = logging.getLogger(__name__)


def published_base(config: ModelConfig) -> PublishedModel | None:
    """The published embedder that a run starts from, also where a run of ours has been tuned from it before."""
    artifact = find(config)
    return find_published(config) if artifact is None else artifact.published


def note_what_is_taken(encoder: Encoder) -> None:
    """Say in a line how a run reads texts because its base is a published embedder, or has Dense layers of its own."""
    artifact = find(encoder.config)
    if artifact is not None and artifact.head is not None:
        what = "kept as they are" if encoder.embedder.view.dense else "left out, because pooling or layer differ"
        _log.info("%s: the Dense layers that its run has trained are %s", encoder.config.name_or_path, what)
    if encoder.published is None:
        return
    _log.info("%s is a published embedder: %s", encoder.config.name_or_path, "; ".join(_taken(encoder)))


def _taken(encoder: Encoder) -> Iterator[str]:
    config, reading = encoder.config, encoder.published
    assert reading is not None
    own = {name: words for name, words in reading.prompts.items() if words}
    prompts = f"prompts {own or 'none'}" if config.prompt == PUBLISHED else f"prompt {config.prompt} instead of {own}"
    yield prompts
    ending = encoder.tokenizer.convert_ids_to_tokens(encoder.ending)
    yield f"texts end in {' '.join(ending)}" if ending else "nothing is appended to texts"
    was = "" if config.pooling == reading.pooling else f" instead of {reading.pooling}"
    yield f"pooling {config.pooling}{was} of layer {config.pooled_layer}"
    dense = [step for step in reading.steps if step.kind == "dense"]
    if dense:
        what = "kept as they are" if encoder.embedder.view.dense else "left out, because pooling or layer differ"
        yield f"{len(dense)} Dense layers, {what}"
    yield f"max_length {config.max_length}"


def check_pooled_prompt(encoder: Encoder, prompt: Prompt) -> None:
    """Refuse a prompt whose tokens are not pooled: training pools every token."""
    if prompt.pooled_from and encoder.config.pooling != "last":
        raise UserError(
            f"model.name_or_path {encoder.config.name_or_path}: its Pooling leaves out the prompt (include_prompt "
            "false), which training does not; use --model.pooling last or --model.prompt bare"
        )


def check_no_adapter(config: ModelConfig) -> None:
    """Refuse a base that has an adapter, on which another one would be put."""
    artifact, published = find(config), published_base(config)
    folder: Path | None = None if artifact is None else artifact.adapter
    if folder is None and published is not None:
        folder = published.adapter
    if folder is not None:
        raise UserError(
            f"model.name_or_path {config.name_or_path}: has an adapter already; to continue training, merge it "
            "with dec2vec export RUN --to DIR --merge, and name DIR"
        )
