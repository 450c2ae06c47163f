"""The `model` section, shared by training and evaluation, and the options of one call of an encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.prompts.ensembles import default_layer
from dec2vec.prompts.prompt import Side, TextNormalization

PoolingName = Literal[
    "last", "mean", "weighted_mean", "first_last", "first_last_static", "max", "logits", "sparse_logits"
]
LOGIT_POOLINGS: tuple[PoolingName, ...] = ("logits", "sparse_logits")
"""Read through the LM head from the last token; as wide as the vocabulary."""


@dataclass(frozen=True)
class EncodeOptions:
    """How an encoder reads the texts of one call."""

    prompt: str | None = None
    """Name or template; None takes the prompt of the encoder's configuration."""
    side: Side = "query"
    """Side of a prompt that differs between queries and documents."""
    batch_tokens: int = 16_384
    """Most padded tokens of one forward pass."""
    progress: bool = True
    """Show a progress bar if the call takes more than a few seconds."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """A decoder and the way its hidden states become one vector."""

    name_or_path: str = ""
    """Hub id or local folder of a decoder-only model (a run folder works where a tuned model is meant)."""
    revision: str | None = None
    """Hub branch, tag or commit; None takes the default branch."""
    trust_remote_code: bool = False
    """Run code that the model's repository ships. Off unless you have read that code."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the base weights in memory."""
    autocast: Literal["auto", "on", "off"] = "auto"
    """Matrix products in bfloat16. auto: on CUDA, and on CPUs with bfloat16 units (elsewhere float32 is faster)."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel; flash_attention_2 needs the flash-attn package and CUDA."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    load_in_4bit: bool = False
    """Load base weights as NF4 (QLoRA). CUDA with the bitsandbytes package only."""
    pooling: PoolingName = "last"
    """Which token states make the vector."""
    layer: int | float | None = None
    """Signed index into the hidden states (-1: after the final norm, 0: input embeddings), or a fraction of depth;
    None takes the layer of the prompt's publication."""
    depth: Annotated[int, Ge(1)] | None = None
    """Use only so many of the decoder's blocks, counted from below: what is saved is then really smaller."""
    bidirectional: bool = False
    """Every token sees the whole text (LLM2Vec, BehnamGhader et al. 2024); a decoder has to be trained for it."""
    prompt: str = "bare"
    """A name such as bare, prompteol or instruct (docs/prompts.md lists all), or a template with one {text}."""
    task: str = "Retrieve semantically similar text."
    """What the instruct prompt says after `Instruct:`."""
    text_normalization: TextNormalization = "none"
    """sts: final period, single quotes, as the published STS protocol prepares sentences; lower: lower case."""
    tokenization: Literal["joint", "separate"] = "joint"
    """joint: prompt and text in one string, as published. separate: the suffix on its own, which exports everywhere."""
    max_length: Annotated[int, Ge(4)] = 512
    """Longest input in tokens, prompt and EOS included; the text is cut, never the prompt."""

    @property
    def pooled_layer(self) -> int | float:
        """`layer`, or the prompt's own (-2 for Pretended CoT and Knowledge Enhancement, -1 for the others)."""
        return default_layer(self.prompt) if self.layer is None else self.layer

    @property
    def untuned(self) -> ModelConfig:
        """The same reading of the decoder as it comes, whole and causal: what tuned ones are compared with."""
        return replace(self, depth=None, bidirectional=False)
