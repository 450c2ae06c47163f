"""Put the parts of an encoder together: tokenizer, decoder, and what a published embedder has around its decoder."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import DenseHead
from dec2vec.decoder.devices import autocast_dtype
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks, index_in_transformers
from dec2vec.decoder.load import load_architecture, load_backbone, load_tokenizer
from dec2vec.decoder.model_folders import attach_adapter
from dec2vec.decoder.pooling import layers_of, resolve_layer
from dec2vec.decoder.positions import with_max_length
from dec2vec.decoder.published import Published, PublishedModel, own_view, prompts_of, with_reading
from dec2vec.errors import UserError
from dec2vec.prompts.ensembles import check_prompt


@dataclass(frozen=True, eq=False)
class Parts:
    """What an encoder is made of. `config` has no open prompt, pooling or length any more."""

    config: ModelConfig
    tokenizer: PreTrainedTokenizerBase
    embedder: Embedder


def assemble(config: ModelConfig, base: ModelConfig, published: PublishedModel | None) -> Parts:
    """The decoder at `base`, read as `config` says. What can be refused is refused before weights are loaded."""
    reading = None if published is None else published.reading
    config = with_reading(config, reading)
    check_prompt(config.prompt_name)
    hub_config = load_architecture(base)
    layer_count = int(hub_config.get_text_config().num_hidden_layers)
    view = own_view(config, reading, layer_count)
    config = with_max_length(config, hub_config.get_text_config(), None if reading is None else reading.max_length)
    tokenizer = _tokenizer(base, published)
    prompts_of(reading, tokenizer, config)
    backbone = load_backbone(base, hub_config)
    layers_of(view, layer_count)
    embedder = Embedder(backbone, view, layer_count, autocast=autocast_dtype(config.autocast, backbone.device))
    if published is not None:
        _complete(embedder, published)
    return Parts(config, tokenizer, embedder)


def _tokenizer(base: ModelConfig, published: PublishedModel | None) -> PreTrainedTokenizerBase:
    """The tokenizer of the decoder at `base`, which reads texts as the published embedder does."""
    if published is None:
        return load_tokenizer(base)
    place = base if published.adapter is None else published.tokenizer_at(base)
    return load_tokenizer(place, lower_case=published.reading.lower_case)


def _complete(embedder: Embedder, published: PublishedModel) -> None:
    """Put the adapter on top of the decoder, and the Dense layers behind the pooling."""
    device = next(embedder.parameters()).device
    _check_layer(embedder, published.reading)
    if published.adapter is not None:
        embedder.backbone = attach_adapter(embedder.backbone, published.adapter)
    if published.reading.steps:
        embedder.head = DenseHead(published.reading.steps, published.tensors).to(device).eval()


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
