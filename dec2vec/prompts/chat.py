"""Use the tokenizer's chat template as a prompt, with the text as the user's turn."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from dec2vec.errors import UserError
from dec2vec.prompts.ensembles import Ensemble, get_ensemble
from dec2vec.prompts.prompt import CHAT_NAMES, Prompt, Side

_TEXT = "dec2vec-writes-the-text-here"


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

    The template is rendered once, around a placeholder: a template that strips its input does not strip texts.
    UserError for a tokenizer without a chat template, or with one that does not write the user's text exactly once.
    """
    owner = f"prompt {name!r}: the tokenizer of {tokenizer.name_or_path}"
    if not tokenizer.chat_template:
        raise UserError(f"{owner} has no chat template; use an instruct model, or write a template with {{text}}")
    try:
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": _TEXT}], tokenize=False, add_generation_prompt=name == "chat"
        )
    except Exception as error:  # a template is a program of its own, which may raise anything
        raise UserError(
            f"the chat template of {owner} fails ({str(error).splitlines()[0]}); write your own template with {{text}}"
        ) from None
    parts = str(written).split(_TEXT)
    if len(parts) != 2:
        raise UserError(
            f"the chat template of {owner} inserts the text {len(parts) - 1} times; write your own template with "
            "{text}"
        )
    return Prompt(name, parts[0], parts[1], append_eos=not parts[1], adds_bos=False)
