"""Long texts: cut where the model was trained to, at the text's end, with prompt and last token kept."""

from __future__ import annotations

from dec2vec.checks.finding import Finding, worst
from dec2vec.checks.library_tokens import cut_ids, ends_with, expected_tail, library_ids
from dec2vec.checks.loaded_model import Subject
from dec2vec.decoder.load import position_limit

NAME = "truncation"
LEAST_ROOM = 16
"""Tokens that should be left for the text."""
_WORDS = "word after word and more of them "


def check_truncation(subject: Subject) -> Finding:
    """Of both routes."""
    found = [] if subject.encoder is None else [_room(subject)]
    if subject.library is not None:
        found += _of_library(subject)
    limit = subject.library.max_seq_length if subject.library is not None else _own_limit(subject)
    return worst(NAME, found, f"cut after {limit} tokens, prompt and last token kept")


def _own_limit(subject: Subject) -> int:
    assert subject.encoder is not None
    return subject.encoder.config.max_length


def _of_library(subject: Subject) -> list[Finding]:
    limit = subject.library.max_seq_length
    positions = position_limit(subject.library[0].auto_model.config.get_text_config())
    file = "sentence_bert_config.json (max_seq_length)"
    if limit is None or (positions is not None and limit > positions):
        what = f"sentence-transformers cuts after {limit} tokens; the decoder has {positions} positions"
        return [Finding(NAME, "fail", what, f"set {file} to {positions or 512} or less")]
    if subject.is_marked and limit != _own_limit(subject):
        what = f"sentence-transformers cuts after {limit} tokens, dec2vec after {_own_limit(subject)}"
        return [Finding(NAME, "fail", what, f"set {file} to {_own_limit(subject)}, or export again")]
    return [_side(subject), _long_text(subject, limit)]


def _side(subject: Subject) -> Finding:
    if subject.library.tokenizer.truncation_side == "right":
        return Finding(NAME, "pass", "")
    what = "long texts lose their beginning, the prompt included: truncation_side is left"
    return Finding(NAME, "fail", what, "set truncation_side to right in tokenizer_config.json")


def _long_text(subject: Subject, limit: int) -> Finding:
    """The short text's own ending, wherever it is right or wrong, has to survive."""
    ids = cut_ids(subject, _WORDS * limit)
    if len(ids) > limit:
        what = f"a long text has {len(ids)} tokens, {limit} allowed"
        return Finding(NAME, "fail", what, "set model_max_length in tokenizer_config.json")
    short = library_ids(subject, _WORDS)
    tail = expected_tail(subject) or short[-1:]
    is_fixed = expected_tail(subject) or tail == library_ids(subject, "other")[-1:]
    if is_fixed and ends_with(short, tail) and not ends_with(ids, tail):
        shown = repr(subject.library.tokenizer.decode(tail))
        what = f"a text that is cut loses {shown}, which is pooled"
        return Finding(
            NAME, "fail", what, "write it in tokenizer.json's post_processor, which truncation leaves room for"
        )
    empty = len(library_ids(subject, ""))
    if limit - empty < LEAST_ROOM:
        what = f"of {limit} tokens the prompt takes {empty}"
        return Finding(NAME, "warn", what, "raise max_seq_length")
    return Finding(NAME, "pass", "")


def _room(subject: Subject) -> Finding:
    """What the prompt leaves of our own limit."""
    assert subject.encoder is not None
    if not subject.encoder.ensemble().is_single:
        return Finding(NAME, "pass", "")
    limit, empty = _own_limit(subject), len(subject.encoder.tokenize(["a"])[0]) - 1
    if limit - empty < LEAST_ROOM:
        what = f"of max_length {limit} tokens the prompt takes {empty}"
        return Finding(NAME, "warn", what, "train with a larger --model.max_length, or a shorter prompt")
    return Finding(NAME, "pass", "")
