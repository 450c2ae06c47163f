"""Use the tokenizer's chat template as a prompt, with the text as the user's turn."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from dec2vec.errors import UserError
from dec2vec.prompts.ensembles import Ensemble, get_ensemble
from dec2vec.prompts.prompt import CHAT_NAMES, Prompt, Side

TEXT_MARK = "dec2vec-writes-the-text-here"
"""What a template is rendered around, to see where it puts the text."""


def encoder_prompts(tokenizer: PreTrainedTokenizerBase, spec: str, task: str, side: Side = "text") -> Ensemble:
    """The prompts that `spec` names for an encoder with this tokenizer: chat prompts and those of `get_ensemble`."""
    if spec in CHAT_NAMES:
        return Ensemble((chat_prompt(tokenizer, spec),))
    return get_ensemble(spec, task, side)


def chat_prompt(tokenizer: PreTrainedTokenizerBase, name: str = "chat") -> Prompt:
    """The text that the chat template writes before and after a user's turn, with BOS if it writes one.

    `last` pools the last token that the template writes. With `chat` this is the end of the generation prompt (in
    ChatML the newline after `<|im_start|>assistant`), after which the answer would begin. With `chat_no_generation` it
    is the end of the user's turn (`[/INST]`, or the newline after `<|im_end|>`). A template that ends in the text gets
    an EOS.

    The template is rendered once, around a placeholder: a template that strips its input does not strip texts. One
    that takes a list of parts alone, as some vision-language decoders have it, gets such a list.
    UserError for a tokenizer without a chat template, or with one that does not write the user's text exactly once.
    """
    written = rendered(tokenizer, name, TEXT_MARK)
    if written.count(TEXT_MARK) != 1:
        written = rendered(tokenizer, name, [{"type": "text", "text": TEXT_MARK}])
    parts = written.split(TEXT_MARK)
    if len(parts) != 2:
        raise UserError(
            f"the chat template of {_owner(tokenizer, name)} inserts the text {len(parts) - 1} times; write your own "
            "template with {text}"
        )
    return Prompt(name, parts[0], parts[1], append_eos=not parts[1], adds_bos=False)


def rendered(
    tokenizer: PreTrainedTokenizerBase, name: str, content: str | list[dict[str, str]], template: Any = None
) -> str:
    """A user's turn as the chat template writes it; as `template` does if it is given. UserError if that fails."""
    owner = _owner(tokenizer, name)
    if not (template or tokenizer.chat_template):
        raise UserError(f"{owner} has no chat template; use an instruct model, or write a template with {{text}}")
    turn = [{"role": "user", "content": content}]
    try:
        written = tokenizer.apply_chat_template(
            turn, chat_template=template, tokenize=False, add_generation_prompt=name == "chat"
        )
    except Exception as error:  # a template is a program of its own, which may raise anything
        raise UserError(
            f"the chat template of {owner} fails ({str(error).splitlines()[0]}); write your own template with {{text}}"
        ) from None
    return str(written)


def _owner(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    return f"prompt {name!r}: the tokenizer of {tokenizer.name_or_path}"
