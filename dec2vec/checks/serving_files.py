"""Check that the folder has what vLLM and Text Embeddings Inference (TEI) read from it. Neither is run.

Each fact with its source is in docs/guides/production.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dec2vec.checks.finding import Finding
from dec2vec.checks.loaded_model import LoadedModel
from dec2vec.checks.model_files import ModelFiles

NAME = "servers"
POOLED = frozenset({"lasttoken", "mean", "cls"})
OF_TEI = frozenset({"mistral", "qwen2", "qwen3", "gemma3_text"})
"""Decoders that Text Embeddings Inference supports."""
_AGAIN = "export again with this version (`dec2vec export RUN --merge`)"
_LAST = "for a server, train with model.layer -1 and model.pooling last or mean; else serve by sentence-transformers"


def check_serving_files(model: LoadedModel) -> Finding:
    """Check the files. A separate adapter is not a mistake, but it has to be merged before serving."""
    files = model.files
    if files.library is None:
        return Finding(NAME, "skip", "this is not a sentence-transformers folder")
    decoder = files.json("config.json")
    if not decoder:
        return Finding(
            NAME, "pass", "the adapter is not merged, which vLLM and TEI require (`dec2vec export RUN --merge`)"
        )
    for what, fix in _obstacles(model, files, decoder):
        return Finding(NAME, "warn", what, fix)
    kind = decoder.get("model_type")
    tei = "and TEI find" if kind in OF_TEI else f"finds (TEI has no {kind})"
    return Finding(NAME, "pass", f"vLLM {tei} architecture, pooling, prompts and length in the files")


def _obstacles(model: LoadedModel, files: ModelFiles, decoder: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of what was seen and the fix, the most serious first."""
    mode = None if model.pooling is None else model.pooling.pooling_mode
    if mode not in POOLED:
        yield f"pooling {mode}: vLLM would take the last token instead, TEI refuses it", _LAST
    if isinstance(_output_name(files), list):
        yield "an inner layer is pooled, but vLLM and TEI would silently use the last one", _LAST
    if not decoder.get("architectures"):
        yield "config.json names no architecture", _AGAIN
    rotary = decoder.get("rope_parameters") or {}
    if "rope_theta" in rotary and "rope_theta" not in decoder:
        yield "config.json has no rope_theta: TEI refuses the model, and transformers 4 silently uses a default", _AGAIN
    if decoder.get("model_type") == "qwen2":
        yield (
            "TEI appends <|endoftext|> to the texts of qwen2 itself, after what the tokenizer appends",
            "serve by vLLM",
        )


def _output_name(files: ModelFiles) -> object:
    described = files.json("sentence_bert_config.json").get("modality_config")
    text = described.get("text") if isinstance(described, dict) else None
    return text.get("method_output_name") if isinstance(text, dict) else None
