"""Check that long texts are cut at their end, after as many tokens as in training, and keep prompt and last token."""

from __future__ import annotations

from dec2vec.checks.finding import Finding, worst
from dec2vec.checks.library_tokens import cut_ids, ends_with, expected_tail, library_ids
from dec2vec.checks.loaded_model import LoadedModel
from dec2vec.decoder.positions import position_limit

NAME = "truncation"
LEAST_ROOM = 16
"""The number of tokens that should be left for the text."""
_WORDS = "word after word and more of them "


def check_truncation(model: LoadedModel) -> Finding:
    """Check truncation in both libraries."""
    findings = [] if model.encoder is None else [_room(model)]
    if model.library is not None:
        findings += _of_library(model)
    limit = model.library.max_seq_length if model.library is not None else _own_limit(model)
    return worst(NAME, findings, f"cut after {limit} tokens, prompt and last token kept")


def _own_limit(model: LoadedModel) -> int:
    assert model.encoder is not None
    return model.encoder.max_length


def _of_library(model: LoadedModel) -> list[Finding]:
    limit = model.library.max_seq_length
    positions = position_limit(model.library[0].auto_model.config.get_text_config())
    file = "sentence_bert_config.json (max_seq_length)"
    if limit is None or (positions is not None and limit > positions):
        what = f"sentence-transformers truncates after {limit} tokens, but the decoder has {positions} positions"
        return [Finding(NAME, "fail", what, f"set {file} to {positions or 512} or less")]
    if model.is_marked and limit != _own_limit(model):
        what = f"sentence-transformers truncates after {limit} tokens, dec2vec after {_own_limit(model)}"
        return [Finding(NAME, "fail", what, f"set {file} to {_own_limit(model)}, or export again")]
    return [_side(model), _long_text(model, limit)]


def _side(model: LoadedModel) -> Finding:
    if model.library.tokenizer.truncation_side == "right":
        return Finding(NAME, "pass", "")
    what = "long texts lose their beginning and the prompt, because truncation_side is left"
    return Finding(NAME, "fail", what, "set truncation_side to right in tokenizer_config.json")


def _long_text(model: LoadedModel, limit: int) -> Finding:
    """Check that a long text keeps the ending that a short text has."""
    ids = cut_ids(model, _WORDS * limit)
    if len(ids) > limit:
        what = f"a long text has {len(ids)} tokens, but the limit is {limit}"
        return Finding(NAME, "fail", what, "set model_max_length in tokenizer_config.json")
    short = library_ids(model, _WORDS)
    tail = expected_tail(model) or short[-1:]
    is_fixed = expected_tail(model) or tail == library_ids(model, "other")[-1:]
    if is_fixed and ends_with(short, tail) and not ends_with(ids, tail):
        shown = repr(model.library.tokenizer.decode(tail))
        what = f"a truncated text loses {shown}, which is pooled"
        return Finding(
            NAME,
            "fail",
            what,
            "append it with the post_processor of tokenizer.json, for which truncation reserves space",
        )
    empty = len(library_ids(model, ""))
    if limit - empty < LEAST_ROOM:
        what = f"the prompt uses {empty} of {limit} tokens"
        return Finding(NAME, "warn", what, "raise max_seq_length")
    return Finding(NAME, "pass", "")


def _room(model: LoadedModel) -> Finding:
    """Check that the prompt leaves room for the text within `max_length`."""
    assert model.encoder is not None
    if not model.encoder.ensemble().is_single:
        return Finding(NAME, "pass", "")
    limit, empty = _own_limit(model), len(model.encoder.tokenize(["a"])[0]) - 1
    if limit - empty < LEAST_ROOM:
        what = f"the prompt uses {empty} of max_length {limit} tokens"
        return Finding(NAME, "warn", what, "train with a larger model.max_length, or a shorter prompt")
    return Finding(NAME, "pass", "")
