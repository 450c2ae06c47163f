"""The `model` section, shared by training and evaluation, and the options of one call of an encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.prompts.ensembles import default_layer
from dec2vec.prompts.prompt import Side, TextNormalization

PoolingName = Literal[
    "last", "mean", "weighted_mean", "first_last", "first_last_static", "max", "logits", "sparse_logits"
]
LOGIT_POOLINGS: tuple[PoolingName, ...] = ("logits", "sparse_logits")
"""Poolings that apply the LM head to the last token. Their vectors are as long as the vocabulary."""

DEFAULT_LENGTH = 512
"""Tokens of a text that are read by default, of a decoder with as many positions."""


@dataclass(frozen=True)
class EncodeOptions:
    """How an encoder reads the texts of one call."""

    prompt: str | None = None
    """Name or template; None takes the prompt of the encoder's configuration."""
    side: Side = "text"
    """Side of a prompt that differs between queries and documents."""
    batch_tokens: int = 16_384
    """Most padded tokens of one forward pass."""
    progress: bool = True
    """Show a progress bar if the call takes more than a few seconds."""
    task: str | None = None
    """What the prompt inserts for `{task}`; None takes that of the encoder's configuration."""


AS_CONFIGURED = EncodeOptions()
"""Texts with the prompt of the encoder's configuration."""


Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The decoder, and how its hidden states become one vector."""

    name_or_path: str = ""
    """Hub id or local folder of a decoder-only model. A run folder is accepted where a tuned model is expected."""
    revision: str | None = None
    """Hub branch, tag or commit. None uses the default branch."""
    adapter: str | None = None
    """LoRA adapter on the decoder, from which training goes on: a run, a folder of dec2vec or PEFT, or a Hub id
    (owner/name or owner/name@REVISION). It brings its decoder, prompt, pooling and length where these are not given."""
    trust_remote_code: bool = False
    """Run code from the model's repository. Enable it only if you have read that code."""
    dtype: Dtype = "float32"
    """Data type of the base weights in memory."""
    autocast: Literal["auto", "on", "off", "float16"] = "auto"
    """Compute matrix products in bfloat16 (on) or float16, with a loss scale in training. auto: bfloat16 where the
    device computes in it natively, float16 on GPUs such as the T4, off elsewhere (float32 is faster there)."""
    attention: Literal["sdpa", "cudnn", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel. sdpa is torch's, without cuDNN, which makes a plan for each new shape; cudnn allows it.
    flash_attention_2 needs CUDA and the flash-attn package."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    """auto uses the machine's accelerator if it has one: cuda (NVIDIA, AMD), mps (Apple) or xpu (Intel)."""
    load_in_4bit: bool = False
    """Load the base weights in 4 bits (NF4, as in QLoRA). Needs CUDA and the bitsandbytes package."""
    pooling: PoolingName | None = None
    """How the vector is computed from the token states. None uses that of a published embedder, and last for other
    decoders."""
    layer: int | float | None = None
    """Signed index into the hidden states (-1: after the final norm, 0: input embeddings), or a fraction of the depth.
    None uses the layer of a published embedder, or that from the publication of the prompt."""
    depth: Annotated[int, Ge(1)] | None = None
    """Use only this many of the decoder's first blocks. The saved model is correspondingly smaller."""
    bidirectional: bool = False
    """Every token attends to the whole text (LLM2Vec, BehnamGhader et al. 2024). The decoder has to be trained for
    this."""
    prompt: str | None = None
    """A prompt name such as bare, prompteol or instruct (all are in docs/prompts.md), or a template with one {text}.
    None uses the prompts of a published embedder, and bare for other decoders."""
    task: str = "Retrieve semantically similar text."
    """Task description that the instruct prompt inserts after `Instruct:`, and a template for {task}."""
    text_normalization: TextNormalization = "none"
    """sts adds a final period and uses single quotes, as in the published STS protocol; lower converts to lower
    case."""
    tokenization: Literal["joint", "separate"] | None = None
    """joint tokenizes prompt and text as one string, as published. separate tokenizes the suffix separately, which
    every export supports. None is joint, but separate in training if a prompt has text after {text}."""
    max_length: Annotated[int, Ge(4)] | None = None
    """Maximum number of tokens, including prompt and EOS. The text is truncated, never the prompt. None uses that of a
    published embedder, otherwise 512, or the number of positions of a decoder that has fewer."""
    max_pixels: Annotated[int, Ge(1), Le(178_956_970)] = 64_000_000
    """An image of more pixels is refused before it is decoded."""

    @property
    def prompt_name(self) -> str:
        """`prompt`, or its default. In the configuration of a loaded encoder `prompt` is never None."""
        return "bare" if self.prompt is None else self.prompt

    @property
    def pooling_name(self) -> PoolingName:
        """`pooling`, or its default. In the configuration of a loaded encoder `pooling` is never None."""
        return "last" if self.pooling is None else self.pooling

    @property
    def pooled_layer(self) -> int | float:
        """`layer`, or the prompt's own (-2 for Pretended CoT and Knowledge Enhancement, -1 for the others)."""
        return default_layer(self.prompt_name) if self.layer is None else self.layer

    @property
    def token_limit(self) -> int:
        """`max_length`, or its default. In the configuration of a loaded encoder it is what the decoder allows."""
        return DEFAULT_LENGTH if self.max_length is None else self.max_length

    @property
    def untuned(self) -> ModelConfig:
        """The same settings for the untuned decoder, whole, causal and with prompts tokenized as published.

        With an adapter from which training goes on, what came before the run is the decoder with it, read as it is.
        """
        if self.adapter is not None:
            return self
        return replace(self, depth=None, bidirectional=False, tokenization="joint")
