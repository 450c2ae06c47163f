"""The folder says all that vLLM and Text Embeddings Inference read from it. Neither is run here.

Each fact with its source is in docs/guides/production.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dec2vec.checks.finding import Finding
from dec2vec.checks.loaded_model import Subject
from dec2vec.checks.model_files import Place

NAME = "servers"
POOLED = frozenset({"lasttoken", "mean", "cls"})
OF_TEI = frozenset({"mistral", "qwen2", "qwen3", "gemma3_text"})
"""Decoders that Text Embeddings Inference has."""
_AGAIN = "export again with this version (`dec2vec export RUN --merge`)"
_LAST = (
    "for a server, train with --model.layer -1 and --model.pooling last or mean; else serve by sentence-transformers"
)


def check_servers(subject: Subject) -> Finding:
    """By the files alone; an adapter kept apart is no mistake, but has to be merged first."""
    place = subject.place
    if place.library is None:
        return Finding(NAME, "skip", "no sentence-transformers folder")
    decoder = place.json("config.json")
    if not decoder:
        return Finding(NAME, "pass", "adapter kept apart; vLLM and TEI want it merged (`dec2vec export RUN --merge`)")
    for what, fix in _obstacles(subject, place, decoder):
        return Finding(NAME, "warn", what, fix)
    kind = decoder.get("model_type")
    tei = "and TEI find" if kind in OF_TEI else f"finds (TEI has no {kind})"
    return Finding(NAME, "pass", f"vLLM {tei} architecture, pooling, prompts and length in the files")


def _obstacles(subject: Subject, place: Place, decoder: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what was seen, fix), the gravest first."""
    mode = None if subject.pooling is None else subject.pooling.pooling_mode
    if mode not in POOLED:
        yield f"pooling {mode}: vLLM would take the last token instead, TEI refuses it", _LAST
    if isinstance(_output_name(place), list):
        yield "an inner layer is pooled; vLLM and TEI would take the last one without a word", _LAST
    if not decoder.get("architectures"):
        yield "config.json names no architecture", _AGAIN
    rotary = decoder.get("rope_parameters") or {}
    if "rope_theta" in rotary and "rope_theta" not in decoder:
        yield "config.json has no rope_theta: TEI refuses it, transformers 4 takes another without a word", _AGAIN
    if decoder.get("model_type") == "qwen2":
        yield (
            "TEI appends <|endoftext|> to the texts of qwen2 itself, after what the tokenizer appends",
            "serve by vLLM",
        )


def _output_name(place: Place) -> object:
    described = place.json("sentence_bert_config.json").get("modality_config")
    text = described.get("text") if isinstance(described, dict) else None
    return text.get("method_output_name") if isinstance(text, dict) else None
