"""Turn texts into token ids that end in the token that the prompt names.

`joint` tokenizes prompt and text as one string, as the publications do. `separate` tokenizes the suffix on its own, so
that a tokenizer's post-processor can add it and an exported model works without dec2vec. In both, the text is cut if
it is too long, but never the prompt or EOS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import PUBLISHED, Prompt

Tokenization = Literal["joint", "separate"]
_log = logging.getLogger(__name__)


def clean_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class Tokens:
    """The ids of texts with their prompt, and which of the texts were cut to `max_length`."""

    ids: list[list[int]]
    is_cut: list[bool]


class PromptTokenizer:
    """Tokenizes texts with one prompt around them.

    A BOS that the tokenizer adds is kept. An EOS that it adds is dropped and appended here instead, since many
    tokenizers of transformers 5 no longer add it. `ending` takes the place of EOS.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        max_length: int,
        tokenization: Tokenization,
        ending: Sequence[int] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_length = max_length
        self._read_as: tuple[Tokenization, Sequence[int] | None] = (tokenization, ending)
        self._bos = leading_specials(tokenizer) if prompt.adds_bos else []
        self._joint_suffix = prompt.suffix if tokenization == "joint" else ""
        tail = [] if tokenization == "joint" else plain_ids(tokenizer, [prompt.suffix])[0]
        self._tail = tail + (ending_ids(tokenizer, ending) if prompt.append_eos else [])
        self._check_room()
        for token in tokenizer.convert_ids_to_tokens(self._bos[:1]):
            if prompt.prefix.lstrip().startswith(token):
                _warn_of_second_bos(tokenizer.name_or_path, prompt.name, token)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The ids of each text with its prompt: at least one and at most `max_length`."""
        texts = [clean_surrogates(text) for text in texts]
        bodies = self._wrapped(texts)
        is_cut = [len(body) > self._room for body in bodies]
        for row in (row for row, flag in enumerate(is_cut) if flag):
            bodies[row] = self._cut(texts[row], bodies[row], self._room)
        return Tokens([self._checked(self._bos + body + self._tail) for body in bodies], is_cut)

    def with_prompt(self, prompt: Prompt, *, room: int) -> PromptTokenizer:
        """The same with another prompt and so many more tokens."""
        return PromptTokenizer(self.tokenizer, prompt, self.max_length + room, *self._read_as)

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is too long, so that it is cut."""
        room = self._room - len(self._wrapped([""])[0])
        return _flags(texts, room, lambda long: [len(body) > self._room for body in self._wrapped(long)])

    @property
    def _room(self) -> int:
        return self.max_length - len(self._bos) - len(self._tail)

    def starts(self, lengths: Int[Tensor, batch]) -> Int[Tensor, batch] | None:
        """The first pooled position of rows of these lengths; None if pooling begins at their first token."""
        return torch.clamp(lengths - 1, max=self.prompt.pooled_from) if self.prompt.pooled_from else None

    def _wrapped(self, texts: Sequence[str]) -> list[list[int]]:
        texts = [text.strip() for text in texts] if self.prompt.strips else texts
        return plain_ids(self.tokenizer, [self.prompt.prefix + text + self._joint_suffix for text in texts])

    def _cut(self, text: str, body: list[int], room: int) -> list[int]:
        """Shorten the text until it fits with its prompt.

        Without a joint suffix the ids end with the text and are simply cut, as an exported tokenizer does. With a joint
        suffix the text is cut at the end of a token, and all of it is tokenized again.
        """
        if not self._joint_suffix:
            is_left = self.prompt.name == PUBLISHED and self.tokenizer.truncation_side == "left"
            return body[len(body) - room :] if is_left else body[:room]
        if self.prompt.name == PUBLISHED:  # sentence-transformers cuts the ids, and writes the suffix over the last
            suffix = plain_ids(self.tokenizer, [self._joint_suffix])[0]
            return body[: room - len(suffix)] + suffix
        kept = len(plain_ids(self.tokenizer, [text])[0]) - (len(body) - room)
        while kept > 0:
            shorter = text[: self._character_end(text, kept)]
            body = self._wrapped([shorter])[0]
            if len(body) <= room:
                return body
            kept -= max(1, len(body) - room)
        return self._wrapped([""])[0]

    def _character_end(self, text: str, tokens: int) -> int:
        """The character position at which the first `tokens` tokens of `text` end."""
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        return int(offsets[tokens - 1][1])

    def _checked(self, ids: list[int]) -> list[int]:
        """The ids. UserError if there are none: an empty text without EOS and prompt has no token to pool."""
        if not ids:
            raise UserError(f"prompt {self.prompt.name!r}: an empty text has no token to pool; use a prompt with EOS")
        return ids

    def _check_room(self) -> None:
        empty = len(self._bos) + len(self._wrapped([""])[0]) + len(self._tail)
        if empty >= self.max_length:
            raise UserError(
                f"max_length {self.max_length}: the prompt {self.prompt.name!r} needs {empty} tokens; set "
                f"model.max_length above {empty}"
            )


def _flags(texts: Sequence[str], room: int, is_long: Callable[[list[str]], list[bool]]) -> list[bool]:
    """`is_long` of each text. Short ones are not asked about: they have fewer tokens than bytes."""
    rows = [row for row, text in enumerate(texts) if 2 * len(text.encode("utf-8", "surrogatepass")) > room]
    flags = [False] * len(texts)
    for row, flag in zip(rows, is_long([clean_surrogates(texts[row]) for row in rows]), strict=True):
        flags[row] = flag
    return flags


@cache
def _warn_of_second_bos(tokenizer: str, prompt: str, token: str) -> None:
    """Once for each prompt: a tokenizer is made for every call of an encoder."""
    _log.warning(
        "prompt %r begins with %s, which the tokenizer of %s also adds, so that it stands twice; remove it from the "
        "prompt",
        prompt,
        token,
        tokenizer,
    )


def plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text without the tokenizer's special tokens."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the EOS token, which is pooled with bare and instruct prompts."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer of {tokenizer.name_or_path}: there is no EOS token; set eos_token in its "
            "tokenizer_config.json, or use a prompt that does not need it, such as prompteol"
        )
    return int(tokenizer.eos_token_id)


def ending_ids(tokenizer: PreTrainedTokenizerBase, ending: Sequence[int] | None) -> list[int]:
    """The tokens after a text: `ending`, or EOS where it is not given."""
    return [eos_id(tokenizer)] if ending is None else list(ending)


def leading_specials(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text: BOS, or nothing."""
    return _specials(tokenizer)[0]


def trailing_specials(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts after a text, which need not be its EOS; often nothing."""
    return _specials(tokenizer)[1]


def _specials(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    ids: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    special: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(special) - len(ids) + 1):
        if special[start : start + len(ids)] == ids:
            return special[:start], special[start + len(ids) :]
    raise UserError(
        f"tokenizer of {tokenizer.name_or_path} adds special tokens inside the text; use a model with another tokenizer"
    )


class EchoTokenizer:
    """Tokenizes texts for echo: BOS if the tokenizer adds one, prefix, text, `repeat`, text, EOS."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        max_length: int,
        ending: Sequence[int] | None = None,
    ) -> None:
        prefix, self._between = plain_ids(tokenizer, [prompt.prefix, prompt.repeat or ""])
        self._tokenizer = tokenizer
        self._before = leading_specials(tokenizer) + prefix
        self._after = ending_ids(tokenizer, ending)
        fixed = len(self._before) + len(self._between) + len(self._after)
        self._room = (max_length - fixed) // 2
        if self._room < 1:
            raise UserError(
                f"max_length {max_length}: the prompt {prompt.name!r} needs {fixed} tokens and contains the text "
                f"twice; set model.max_length to {fixed + 2} or more"
            )

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The ids of each text with its prompt, at most `max_length`. Both copies are cut at the same token."""
        whole = plain_ids(self._tokenizer, [clean_surrogates(text) for text in texts])
        copies = [ids[: self._room] for ids in whole]
        ids = [self._before + copy + self._between + copy + self._after for copy in copies]
        return Tokens(ids, [len(ids) > self._room for ids in whole])

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is too long for two copies, so that they are cut."""
        return _flags(
            texts, self._room, lambda long: [len(ids) > self._room for ids in plain_ids(self._tokenizer, long)]
        )

    def starts(self, lengths: Int[Tensor, batch]) -> Int[Tensor, batch]:
        """The position at which the second copy begins in rows of these lengths; that of EOS if the text is empty."""
        copy = (lengths - len(self._before) - len(self._between) - len(self._after)) // 2
        return lengths - len(self._after) - copy
