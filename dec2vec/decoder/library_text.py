"""How the Transformer module of sentence-transformers reads a text: length, lower case, layer and chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dec2vec.decoder.published import ChatTurn
from dec2vec.decoder.repository_files import Files, entry
from dec2vec.errors import UserError

_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The names of its configuration in all versions."""
LONGEST = 1 << 20
"""Taken as the limit where the files name none, as in tokenizers without a model_max_length."""
_HARMLESS: dict[str, frozenset[str]] = {
    "model_args": frozenset({"dtype", "torch_dtype", "attn_implementation", "device_map", "use_safetensors"}),
    "tokenizer_args": frozenset({"model_max_length", "padding_side", "use_fast"}),
    "config_args": frozenset({"use_cache"}),
}
"""Entries of these options that dec2vec has options of its own for, or that change no vector."""
_PRESENT_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}


@dataclass(frozen=True)
class TextReading:
    """What the module does before and within the decoder."""

    layer: int
    max_length: int
    lower_case: bool
    chat: ChatTurn | None


def read_transformer(files: Files, folder: str) -> TextReading:
    """The reading of the Transformer in `folder`. UserError for an option that is not read."""
    below = f"{folder}/" if folder else ""
    named = ((name, files.optional(below + name, quiet=name != _CONFIGS[0])) for name in _CONFIGS)
    name, config = next(((name, found) for name, found in named if found), (_CONFIGS[0], {}))
    where = f"{files.name}/{below}{name}"
    _refuse_unknown(config, where)
    modalities = entry(config, "modality_config", dict, where) or {}
    chat = entry(modalities, "message", dict, where)
    return TextReading(
        layer=_layer(chat or entry(modalities, "text", dict, where) or {}, where),
        max_length=_max_length(config, where, files, f"{below}tokenizer_config.json"),
        lower_case=bool(entry(config, "do_lower_case", bool, where)),
        chat=None if chat is None else _chat_turn(chat, config, where),
    )


def _refuse_unknown(config: Mapping[str, Any], where: str) -> None:
    """Refuse what changes vectors in a way that is not computed here."""
    for option, harmless in _HARMLESS.items():
        for key in _given(config, option, where):
            if key not in {*harmless, "trust_remote_code"}:
                raise UserError(f"{where}: {option}.{key} is not read; use the model by sentence-transformers")
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UserError(f"{where}: transformer_task {task} is not read, but only feature-extraction")
    for option in ("query_length", "document_length", "query_expansion"):
        if config.get(option) is not None:
            raise UserError(f"{where}: {option} is not read; use the model by sentence-transformers")
    kinds = entry(config, "processing_kwargs", dict, where) or {}
    for kind in kinds:
        for key in entry(kinds, kind, dict, f"{where}: processing_kwargs") or {}:
            if (kind, key) not in (("chat_template", "add_generation_prompt"), ("chat_template", "restore_suffix")):
                raise UserError(f"{where}: processing_kwargs.{kind}.{key} is not read")


def _given(config: Mapping[str, Any], option: str, where: str) -> Mapping[str, Any]:
    """An option under its former name or its present one."""
    return entry(config, option, dict, where) or entry(config, _PRESENT_NAMES[option], dict, where) or {}


def _layer(modality: Mapping[str, Any], where: str) -> int:
    """The hidden state that is pooled: the last one, or one of `output_hidden_states`."""
    method, output = modality.get("method", "forward"), modality.get("method_output_name", "last_hidden_state")
    if method == "forward" and output == "last_hidden_state":
        return -1
    if method == "forward" and isinstance(output, list) and len(output) == 2 and output[0] == "hidden_states":
        return entry({"hidden_states": output[1]}, "hidden_states", int, where) or 0
    raise UserError(f"{where}: the output {output} of {method} is not read, but only hidden states of the decoder")


def _max_length(config: Mapping[str, Any], where: str, files: Files, tokenizer: str) -> int:
    """`max_seq_length`, or the tokenizer's own limit; the positions of the decoder may be fewer."""
    for limit in (
        entry(config, "max_seq_length", int, where),
        entry(_given(config, "tokenizer_args", where), "model_max_length", int, where),
        entry(files.optional(tokenizer), "model_max_length", int, f"{files.name}/{tokenizer}"),
    ):
        if limit is not None and limit < 1:
            raise UserError(f"{where}: a length of {limit} tokens leaves nothing to read; correct the file")
        if limit is not None:
            return min(limit, LONGEST)
    return LONGEST


def _chat_turn(message: Mapping[str, Any], config: Mapping[str, Any], where: str) -> ChatTurn:
    """How a text becomes the user's turn."""
    form = message.get("format")
    if form not in ("flat", "structured"):
        raise UserError(f"{where}: the format {form!r} of messages is not read, but only flat and structured")
    options = (config.get("processing_kwargs") or {}).get("chat_template") or {}
    return ChatTurn(form == "structured", bool(options.get("add_generation_prompt", False)))
