"""Options shared by the verbs that load a model: each verb's options are a subclass, so that they mean the same."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.prompts.prompt import Side


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelArgs:
    """How a model is loaded."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses CUDA if it is available."""
    trust_remote_code: bool = False
    """Run code from the model's Hub repository."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Data type of the weights in memory. None uses the model's setting (float32 for an untuned model)."""
    autocast: Literal["auto", "on", "off", "float16"] | None = None
    """Compute matrix products in bfloat16, which changes vectors by up to 1e-2. None uses the model's setting (auto for
    an untuned model: on where the hardware supports bfloat16)."""
    attention: Literal["sdpa", "cudnn", "flash_attention_2", "eager"] | None = None
    """Attention kernel. None uses the model's setting (sdpa, or eager for a decoder without it)."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Maximum number of tokens of a text with its prompt. None uses the model's setting (512 for an untuned model, or
    the number of positions of a decoder that has fewer)."""

    def model_config(self, name: str) -> ModelConfig:
        """The configuration that loads the run folder, model folder or Hub id `name`, before `changes`."""
        return ModelConfig(
            name_or_path=name, revision=self.revision, device=self.device, trust_remote_code=self.trust_remote_code
        )

    @property
    def changes(self) -> dict[str, Any]:
        """The options that were given, and that replace those of a tuned model too."""
        given = {name: getattr(self, name) for name in ("dtype", "autocast", "attention", "max_length")}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderArgs(ModelArgs):
    """How a model is loaded and texts are embedded."""

    prompt: str | None = None
    """Prompt name, or a template with one {text}. None uses the model's prompt."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Maximum number of padded tokens per forward pass. It limits the memory."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SidedEncoderArgs(EncoderArgs):
    """The same for texts that are all queries or all documents."""

    side: Side = "text"
    """Side of a prompt that differs between queries and documents. With instruct, documents have no instruction.
    text is neither: it has the default prompt of a published embedder, and the prompt of queries in other models."""

    @property
    def encode_options(self) -> EncodeOptions:
        """The part of the options that a call of `Encoder.encode` takes."""
        return EncodeOptions(self.prompt, self.side, self.batch_tokens)
