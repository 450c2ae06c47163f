"""A tokenizer that appends the end of the prompt, so that sentence-transformers needs no code of dec2vec.

Truncation in the `tokenizers` library leaves room for what the post-processor adds. Suffix and EOS are in the
post-processor, so that truncation cuts the text and keeps them, exactly as in our encoder. The prefix is one of the
`prompts` of sentence-transformers, which puts it in front of the text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import PUBLISHED, Prompt, Side, TextNormalization, get_prompt, lower_case
from dec2vec.prompts.tokenizer import leading_specials

_log = logging.getLogger(__name__)
Json = dict[str, object]
PROBES = (
    "",
    " ",
    "A man is playing a guitar.",
    "  two  spaces\tand a tab \n new line \n",
    'She said: "Is it 3.50?"',
    "Is it?",
    "na\u00efve caf\u00e9 \u6771\u4eac \U0001f600 \u200b",
    "no final period",
    "\u0130zmir \u03a3\u0399\u03a3",
)
SIDES: tuple[Side, Side] = ("query", "document")
_SPACES = r"\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
"""The characters that `str.strip` removes, for the regular expressions of `tokenizers` (Oniguruma)."""


def side_prompts(encoder: Encoder) -> dict[Side, Prompt]:
    """The encoder's prompt for queries and for documents."""
    config = encoder.config
    if config.prompt == PUBLISHED:
        return {side: encoder.ensemble(None, side).members[0] for side in SIDES}
    prompts = {side: get_prompt(config.prompt_name, config.task, side) for side in SIDES}
    if config.tokenization == "joint" and any(prompt.suffix for prompt in prompts.values()):
        raise UserError(
            f"prompt {config.prompt!r}: its suffix is tokenized jointly with the text, which a tokenizer alone cannot "
            "do; to export to sentence-transformers, train with model.tokenization separate"
        )
    return prompts


def save_tokenizer(encoder: Encoder, folder: Path) -> None:
    """Write the tokenizer with the end of the prompt, padding and maximum length, then load it and compare the ids."""
    prompts = side_prompts(encoder)
    encoder.tokenizer.save_pretrained(folder)
    _edit(folder / "tokenizer.json", _tokenizer_changes(encoder, prompts, folder))
    _edit(folder / "tokenizer_config.json", _config_changes(encoder), drop=("add_bos_token", "add_eos_token"))
    _check(encoder, prompts, folder)


def _edit(path: Path, changes: Mapping[str, object], drop: Sequence[str] = ()) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in drop}
    path.write_text(json.dumps({**kept, **changes}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _config_changes(encoder: Encoder) -> Json:
    """The generic class reads tokenizer.json unchanged; a model's own class would rebuild parts of it.

    Two keys are for transformers 4: unless the processor is named here, it looks for it in config.json, which an
    adapter does not have; and its tokenizers return token types by default, for which GPT-2 adds an embedding.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": encoder.max_length,
        "padding_side": "right",
        "truncation_side": encoder.tokenizer.truncation_side if encoder.config.prompt == PUBLISHED else "right",
        "pad_token": _pad_token(encoder),
    }


def _pad_token(encoder: Encoder) -> str:
    """The tokenizer's own pad token, else EOS; never one that the embeddings have no row for."""
    tokenizer = encoder.tokenizer
    for token in (tokenizer.pad_token, tokenizer.eos_token):
        if token is not None and tokenizer.convert_tokens_to_ids(token) not in encoder.tokens_without_row:
            if token != (tokenizer.pad_token or token):
                own = tokenizer.pad_token
                _log.info("the export pads with %s, because the embeddings have no row for %s", token, own)
            return str(token)
    return str(tokenizer.convert_ids_to_tokens(0))


def _tokenizer_changes(encoder: Encoder, prompts: Mapping[Side, Prompt], folder: Path) -> Json:
    original = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    changes: Json = {
        "truncation": None,
        "padding": None,
        "post_processor": _post_processor(encoder, prompts["query"]),
    }
    return changes | normalizer_changes(encoder, [*prompts.values()], original["normalizer"])


def normalizer_changes(encoder: Encoder, prompts: Sequence[Prompt], original: object) -> Json:
    """The entry of tokenizer.json that also does the encoder's text normalization; none where there is none."""
    ours = _normalizers(encoder.config.text_normalization, prompts)
    before = [] if original is None else [original]
    return {"normalizer": {"type": "Sequence", "normalizers": [*ours, *before]}} if ours else {}


def _normalizers(name: TextNormalization, prompts: Sequence[Prompt]) -> list[Json]:
    """The normalizers of the exported tokenizer, which see the whole string including the prompt."""
    prefixes = sorted({prompt.prefix for prompt in prompts if prompt.prefix})
    suffix = prompts[0].suffix
    if name == "sts":
        return _sts_normalizers(prefixes, suffix)
    if name == "none":
        return []
    for text in (*prefixes, suffix):
        if lower_case(text) != text:
            raise UserError(
                f"model.text_normalization lower: the exported tokenizer would also lower-case the prompt {text!r}; "
                "write model.prompt in lower case, or use export.model false"
            )
    return [{"type": "Lowercase"}]


def _post_processor(encoder: Encoder, prompt: Prompt) -> Json:
    """`head text tail`: the tokenizer's own leading tokens, and the tokens of suffix and ending as one entry."""
    tokenizer = encoder.tokenizer
    suffix: list[int] = tokenizer(prompt.suffix, add_special_tokens=False)["input_ids"] if prompt.suffix else []
    entries = {
        "<head>": leading_specials(tokenizer),
        "<tail>": suffix + (encoder.ending if prompt.append_eos else []),
    }
    entries = {name: ids for name, ids in entries.items() if ids}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    head, tail = ([{"SpecialToken": {"id": name, "type_id": 0}}] * (name in entries) for name in ("<head>", "<tail>"))
    return {
        "type": "TemplateProcessing",
        "single": [*head, text, *tail],
        "pair": [*head, text, *tail, second, *tail],
        "special_tokens": {
            name: {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for name, ids in entries.items()
        },
    }


def _sts_normalizers(prefixes: Sequence[str], suffix: str) -> list[Json]:
    r"""The `sts` normalization of a text that may follow one of the prefixes. Prefix and suffix must not change.

    (Our Encoder tokenizes the suffix separately when it loads the exported folder.) In Oniguruma \A and \z are the ends
    of the string, ^ and $ those of a line. A text that contains the spelling of a special token is normalized piece by
    piece, which is the one difference from our encoder.
    """
    fixed = [text for text in (*prefixes, suffix) if text]
    alone = "".join(rf"(?<!\A{_literal(text)})" for text in fixed)
    quotes = "".join(rf"(?<!\A{_literal(text[:at])})" for text in prefixes for at in _quotes(text))
    quotes += "".join(rf"(?!(?<=\A{_literal(suffix[:at])}){_literal(suffix[at:])}\z)" for at in _quotes(suffix))
    questions = "".join(rf"(?<!\A{_literal(text[:-1])})" for text in fixed if text.endswith("?"))
    spaces = "".join(f"(?!{_literal(text)})" for text in prefixes) + (rf"(?!{_literal(suffix)}\z)" if suffix else "")
    return [
        _replace(rf"""(?<=[^.?"']){alone}\z""", "."),
        _replace(rf'{quotes}"', "'"),
        _replace(rf"{questions}\?\z", "."),
        _replace(rf"\A{spaces}[{_SPACES}]+", ""),
        *(_replace(rf"\A{_literal(prefix)}[{_SPACES}]+", prefix) for prefix in prefixes),
    ]


def _quotes(text: str) -> list[int]:
    return [at for at, sign in enumerate(text) if sign == '"']


def _replace(pattern: str, content: str) -> Json:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _literal(text: str) -> str:
    """Every character by its code point, so that none is an operator."""
    return "".join(rf"\x{{{ord(sign):x}}}" for sign in text)


def _check(encoder: Encoder, prompts: Mapping[Side, Prompt], folder: Path) -> None:
    """Compare the ids of the saved tokenizer, called as sentence-transformers calls it, with those of the encoder."""
    saved = AutoTokenizer.from_pretrained(folder)
    probes = [*PROBES, "many words and more " * encoder.max_length]
    for side, prompt in prompts.items():
        known = probes if encoder.ending or prompt.prefix or prompt.suffix else list(filter(None, probes))
        for text, expected in zip(known, encoder.tokenize(known, side=side), strict=True):
            ids = saved(prompt.prefix + text, truncation="longest_first")["input_ids"]
            if ids != expected:
                raise UserError(
                    f"tokenizer of {encoder.config.name_or_path}: sentence-transformers would give {text[:40]!r} "
                    "different token ids than dec2vec, so it is not exported; use adapter/ with dec2vec"
                )
