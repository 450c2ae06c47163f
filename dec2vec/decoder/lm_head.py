"""The LM head, which is loaded only if logits of the last token are needed.

The scores of the next token serve as a vector (`logits`), or in the sparse form log(1 + relu) of PromptReps (Zhuang et
al. 2024, `sparse_logits`). A head that is missing from the checkpoint is refused: transformers would use a random one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as _CAUSAL

from dec2vec.config.model import LOGIT_POOLINGS, ModelConfig, PoolingName
from dec2vec.decoder.devices import resolve_device
from dec2vec.decoder.load import load_architecture
from dec2vec.decoder.pooling import View
from dec2vec.decoder.quantized import stored_tensors
from dec2vec.decoder.vision import family_of
from dec2vec.errors import UserError
from dec2vec.vectors.averaging import Part, Vectors

LOGITS_BYTES = 2 << 30
"""Largest size of all logits of one call."""
SLICE_BYTES = 256 << 20
"""Largest size of the logits that are computed at once, from a few rows of a chunk."""
_OLD_NAMES = ("lm_head", "embed_out", "language_model.lm_head")
"""Names of the head in checkpoints whose model class has renamed it (GPT-NeoX, LLaVA)."""


@dataclass(frozen=True)
class LMHead:
    """The model's head in float32. Soft caps and scales of single families (Gemma 2, Cohere) are not applied."""

    weight: Float[Tensor, "vocab dim"]
    bias: Float[Tensor, vocab] | None = None

    @torch.no_grad()
    def read(self, states: Float[np.ndarray, "rows dim"], pooling: PoolingName) -> Float[np.ndarray, "rows vocab"]:
        """The logits of pooled states, raw or as log(1 + relu)."""
        if states.shape[1] != self.weight.shape[1]:
            raise UserError(
                f"view {pooling}: the LM head needs {self.weight.shape[1]} values, but this layer has "
                f"{states.shape[1]}; use the last layer"
            )
        logits = nn.functional.linear(torch.from_numpy(states).to(self.weight.device), self.weight, self.bias)
        return (logits if pooling == "logits" else logits.relu().log1p()).cpu().numpy()


def load_lm_head(config: ModelConfig, embeddings: Tensor | None = None) -> LMHead:
    """The head of a local folder or Hub id: its own matrix, or the input embeddings if the two are tied.

    Tied `embeddings` that are in memory are not read again. UserError if the checkpoint has no head.
    """
    hub_config = load_architecture(config)
    with torch.device("meta"):  # names and ties without a weight
        reads_images = family_of(hub_config) is not None and hub_config.model_type not in _CAUSAL
        kind = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
        causal = kind.from_config(hub_config, trust_remote_code=config.trust_remote_code)
    head, inputs = causal.get_output_embeddings(), causal.get_input_embeddings()
    name_of = {id(module): name for name, module in causal.named_modules()}
    is_tied = head.weight is inputs.weight
    if is_tied and embeddings is not None:
        weight = embeddings
    else:
        names = [name_of[id(inputs)]] if is_tied else [name_of[id(head)], *_OLD_NAMES]
        weight = _read(config, hub_config, [f"{name}.weight" for name in names])
    bias = None if head.bias is None else _read(config, hub_config, [f"{name_of[id(head)]}.bias"]).float()
    return LMHead(weight.detach().float(), bias)


def _read(config: ModelConfig, architecture: PretrainedConfig, names: Sequence[str]) -> Tensor:
    """The first tensor of these names. In the checkpoint of a base model, names lack the prefix for the base model."""
    tensors = stored_tensors(config, architecture)
    for name in names:
        for key, tensor in tensors.items():
            if name == key or name.endswith(f".{key}"):
                return tensor[...].to(resolve_device(config.device))
    raise UserError(
        f"model {config.name_or_path}: its files contain no LM head ({names[0]}); pool hidden states, or use the "
        "checkpoint of the causal model"
    )


def tied_embeddings(backbone: Any, name: str) -> Vectors:
    """The input embeddings as the LM head (vocabulary, d); UserError for the model `name` if the two are not tied."""
    decoder = vars(backbone.config.get_text_config())
    if not decoder.get("tie_word_embeddings", backbone.config.tie_word_embeddings):
        raise UserError(
            f"model {name}: its LM head is not tied to the input embeddings and is not loaded; remove embfilter from "
            "systems.post"
        )
    return np.asarray(backbone.get_input_embeddings().weight.detach().float().cpu().numpy())


def reads_logits(views: Sequence[View]) -> bool:
    """Whether one of the views needs the LM head."""
    return any(view.pooling in LOGIT_POOLINGS for view in views)


def state_view(view: View) -> View:
    """The view of the hidden state from which a view of logits is computed; other views are returned as they are."""
    return replace(view, pooling="last") if view.pooling in LOGIT_POOLINGS else view


def with_logits(parts: Iterator[Part], views: Sequence[View], head: LMHead) -> Iterator[Part]:
    """Turn pooled states of `state_view`s into vectors of `views`, in slices of rows that limit the memory."""
    step = max(1, SLICE_BYTES // (4 * len(head.weight)))
    for rows, vectors in parts:
        for start in range(0, len(rows), step):
            cut = slice(start, start + step)
            yield rows[cut], [_of_view(array[cut], view, head) for array, view in zip(vectors, views, strict=True)]


def _of_view(states: Vectors, view: View, head: LMHead) -> Vectors:
    return head.read(states, view.pooling) if view.pooling in LOGIT_POOLINGS else states


def check_room(texts: int, views: Sequence[View], head: LMHead) -> None:
    """Raise UserError if the logits of all texts would exceed the memory."""
    count = sum(view.pooling in LOGIT_POOLINGS for view in views)
    needed = 4 * texts * count * len(head.weight)
    if needed > LOGITS_BYTES:
        raise UserError(
            f"logits of {texts} texts: {len(head.weight)} floats each need {needed / 2**30:.1f} GiB in {count} "
            f"views, and the limit is {LOGITS_BYTES / 2**30:.1f}; use fewer texts, stream iter_views, or pool states"
        )
