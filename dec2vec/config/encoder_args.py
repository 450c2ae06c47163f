"""Options shared by the verbs that load a model: each verb's options are a subclass, so that they mean the same."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import EncodeOptions, ModelConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelArgs:
    """How a model is loaded."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses CUDA if it is available."""
    trust_remote_code: bool = False
    """Run code from the model's Hub repository."""

    def model_config(self, name: str, revision: str | None = None) -> ModelConfig:
        """The configuration that loads the run folder, model folder or Hub id `name`."""
        return ModelConfig(
            name_or_path=name, revision=revision, device=self.device, trust_remote_code=self.trust_remote_code
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderArgs(ModelArgs):
    """How a model is loaded and texts are embedded."""

    prompt: str | None = None
    """Prompt name, or a template with one {text}. None uses the model's prompt."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Maximum number of padded tokens per forward pass. It limits the memory."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Maximum number of tokens of a text with its prompt. None uses the model's setting (512 for an untuned model)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SidedEncoderArgs(EncoderArgs):
    """The same for texts that are all queries or all documents."""

    side: Literal["query", "document"] = "query"
    """Side of a prompt that differs between queries and documents. With instruct, documents have no instruction."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""

    @property
    def encode_options(self) -> EncodeOptions:
        """The part of the options that a call of `Encoder.encode` takes."""
        return EncodeOptions(self.prompt, self.side, self.batch_tokens)
