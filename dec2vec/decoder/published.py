"""A published embedder: how its files say that texts are read, besides what the options of `model` can say.

`library_files` reads it from the files of sentence-transformers. A run that was tuned from such a model keeps it in
its `dec2vec.json`, and the weights of its Dense layers in `head.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dec2vec.config.model import ModelConfig, PoolingName
from dec2vec.decoder.dense_head import Step
from dec2vec.decoder.pooling import View, resolve_layer
from dec2vec.errors import UserError
from dec2vec.prompts.chat import encoder_prompts
from dec2vec.prompts.ensembles import Ensemble
from dec2vec.prompts.prompt import PUBLISHED, SLOT, Prompt, Side

_TEXT = "dec2vec-writes-the-text-here"


@dataclass(frozen=True)
class ChatTurn:
    """The text is the user's turn of the chat template, and a prompt is its system message."""

    structured: bool = False
    """The content is a list of parts instead of a string."""
    generation_prompt: bool = False
    """The beginning of the answer is written too."""


@dataclass(frozen=True)
class Published:
    """The reading of a published embedder. Its texts end as its tokenizer ends them, which need not be in EOS."""

    pooling: PoolingName
    layer: int = -1
    """The pooled hidden state, as in `model.layer`."""
    max_length: int | None = None
    """Tokens of a text that are read; None if nothing limits them but the positions of the decoder."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What is written before a text, by name."""
    default_prompt: str | None = None
    """The name of the prompt for texts that are neither queries nor documents; None for no prompt."""
    include_prompt: bool = True
    """Whether the tokens of the prompt are pooled too."""
    lower_case: bool = False
    """Texts and prompts are converted to lower case."""
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None
    """How its vectors are meant to be compared."""
    chat: ChatTurn | None = None
    """Set if texts are put into the chat template."""
    steps: tuple[Step, ...] = ()
    """The layers between the pooled vector and the embedding, without a normalization at the end."""

    @classmethod
    def from_json(cls, content: Any) -> Published:
        """What `as_json` gave. ValidationError for anything else."""
        return TypeAdapter(cls).validate_python(content)

    def as_json(self) -> dict[str, Any]:
        """Plain data for `dec2vec.json`."""
        return asdict(self)

    def words(self, side: Side, called: str = "") -> str:
        """The prompt of a side: that of `encode`, `encode_query` or `encode_document` in sentence-transformers.

        With `called` it is the prompt of this name instead, which sentence-transformers knows as `prompt_name`.
        """
        if called:
            return self.prompts.get(called) or ""
        name = self.default_prompt if side == "text" else side
        return "" if name is None else self.prompts.get(name) or ""

    def prompt(self, tokenizer: PreTrainedTokenizerBase, side: Side, called: str = "") -> Prompt:
        """The prompt of a side, or of a name. UserError for a chat template in which the text does not stand once."""
        words = self.words(side, called)
        if self.chat is None:
            return Prompt(PUBLISHED, words, pooled_from=self._prompt_tokens(tokenizer, words))
        before, after = _around(tokenizer, _written(tokenizer, self.chat, words, _TEXT))
        wide = f" {_TEXT} "
        strips = wide not in _written(tokenizer, self.chat, words, wide)
        return Prompt(PUBLISHED, before, after, append_eos=False, adds_bos=False, strips=strips)

    def _prompt_tokens(self, tokenizer: PreTrainedTokenizerBase, words: str) -> int:
        """The tokens that are left out, counted as sentence-transformers does: those of the prompt and of BOS."""
        if self.include_prompt or not words:
            return 0
        ids: list[int] = tokenizer(words)["input_ids"]
        return len(ids) - (ids[-1] in tokenizer.all_special_ids)

    @property
    def excludes_words(self) -> bool:
        """Whether the tokens of some prompt are not pooled."""
        return not self.include_prompt and self.pooling != "last" and any(self.prompts.values())


def with_reading(config: ModelConfig, reading: Published | None) -> ModelConfig:
    """The configuration with prompt, pooling and layer, where it leaves them open: those of `reading`, or the defaults.

    `max_length` depends on the decoder too (`positions.with_max_length`).
    """
    if reading is None:
        return replace(config, prompt=config.prompt_name, pooling=config.pooling_name)
    layer = config.layer
    if layer is None and config.prompt in (None, PUBLISHED) and config.pooling in (None, reading.pooling):
        layer = reading.layer
    return replace(config, prompt=config.prompt or PUBLISHED, pooling=config.pooling or reading.pooling, layer=layer)


def own_view(config: ModelConfig, reading: Published | None, layer_count: int) -> View:
    """How a configuration reads a decoder. Dense layers belong to the pooling and layer that they were trained on."""
    layer = resolve_layer(config.pooled_layer, layer_count)
    is_published = (
        reading is not None
        and bool(reading.steps)
        and config.pooling_name == reading.pooling
        and layer == resolve_layer(reading.layer, layer_count)
    )
    return View(config.pooling_name, config.pooled_layer, dense=is_published)


def prompts_of(
    reading: Published | None, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, side: Side = "text"
) -> Ensemble:
    """The prompts that `config.prompt` names. UserError for `published` without a published embedder."""
    called = _called(config.prompt_name)
    if config.prompt != PUBLISHED and not called:
        return encoder_prompts(tokenizer, config.prompt_name, config.task, side)
    if reading is None:
        raise UserError(
            f"prompt {PUBLISHED!r}: {config.name_or_path} is not a published embedder (no modules.json of "
            "sentence-transformers); use another prompt, such as bare"
        )
    return Ensemble((reading.prompt(tokenizer, side, called),))


def published_prompt(name: str) -> str:
    """The prompt that a published embedder has under `name`, such as STS, as an encoder takes it."""
    return f"{PUBLISHED}:{name}"


def _called(prompt: str) -> str:
    """The name in `published_prompt(name)`; empty for every other prompt."""
    return prompt.removeprefix(f"{PUBLISHED}:") if prompt.startswith(f"{PUBLISHED}:") and SLOT not in prompt else ""


def _around(tokenizer: PreTrainedTokenizerBase, written: str) -> tuple[str, str]:
    """What stands before and after the text."""
    parts = written.split(_TEXT)
    if len(parts) != 2:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} inserts the text {len(parts) - 1} times instead of once"
        )
    return parts[0], parts[1]


def _written(tokenizer: PreTrainedTokenizerBase, chat: ChatTurn, words: str, text: str) -> str:
    """The turn as the chat template writes it."""

    def message(role: str, content: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": content}] if chat.structured else content}

    turns = [message("system", words)] * bool(words) + [message("user", text)]
    try:
        found = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=chat.generation_prompt)
    except Exception as error:  # a template is a program of its own, which may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} fails ({reason}), so its texts can't be read"
        ) from None
    return str(found)


@dataclass(frozen=True)
class PublishedModel:
    """A published embedder in its place."""

    reading: Published
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Of its Dense layers."""
    decoder: str = ""
    """Folder or Hub id of the weights."""
    revision: str | None = None
    adapter: Path | None = None
    """A PEFT adapter that is put on top of the weights; the tokenizer lies beside it."""

    def base(self, config: ModelConfig) -> ModelConfig:
        """Where the weights of the decoder are."""
        return replace(config, name_or_path=self.decoder, revision=self.revision)

    def tokenizer_at(self, config: ModelConfig) -> ModelConfig:
        """Where the tokenizer is."""
        return self.base(config) if self.adapter is None else replace(config, name_or_path=str(self.adapter))
