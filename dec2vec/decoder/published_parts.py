"""The parts of a published embedder that are put around its decoder: tokenizer, adapter and Dense layers."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import DenseHead
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks, index_in_transformers
from dec2vec.decoder.load import load_tokenizer
from dec2vec.decoder.model_folders import attach_adapter
from dec2vec.decoder.pooling import resolve_layer
from dec2vec.decoder.published import Published, PublishedModel
from dec2vec.errors import UserError


def tokenizer_of(config: ModelConfig, published: PublishedModel | None) -> PreTrainedTokenizerBase:
    """The tokenizer of the decoder at `config`, which reads texts as the published embedder does."""
    if published is None:
        return load_tokenizer(config)
    place = config if published.adapter is None else published.tokenizer_at(config)
    return load_tokenizer(place, lower_case=published.reading.lower_case)


def complete(embedder: Embedder, published: PublishedModel) -> None:
    """Put the adapter on top of the decoder, and the Dense layers behind the pooling."""
    device = next(embedder.parameters()).device
    _check_layer(embedder, published.reading)
    if published.adapter is not None:
        embedder.backbone = attach_adapter(embedder.backbone, published.adapter)
    if published.reading.steps:
        embedder.head = DenseHead(published.reading.steps, published.tensors).to(device)


def _check_layer(embedder: Embedder, reading: Published) -> None:
    """Refuse a hidden state that transformers numbers otherwise than we do (Mamba and RWKV have no state 0)."""
    count = embedder.layer_count
    layer = resolve_layer(reading.layer, count)
    blocks = decoder_blocks(embedder.backbone, count)
    if layer < count and blocks is not None and index_in_transformers(embedder.backbone, blocks, layer) != layer:
        raise UserError(
            f"the published embedder pools hidden state {layer}, which is another one in this decoder; use it by "
            "sentence-transformers"
        )
