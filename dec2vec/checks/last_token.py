"""The last token is the one the prompt names: EOS, or the end of the suffix, once.

transformers 5 no longer honours `add_eos_token` in many tokenizers; pooled at the text's own last token, vectors are
plausible and worse.
"""

from __future__ import annotations

from dec2vec.checks.finding import Finding
from dec2vec.checks.library_tokens import ends_with, expected_tail, library_ids
from dec2vec.checks.loaded_model import PROBES, Subject

NAME = "last token"
_FIX = "let the post_processor of tokenizer.json write it (`dec2vec export` does); add_eos_token is not honoured"


def check_ending(subject: Subject) -> Finding:
    """Of sentence-transformers; our own encoder appends it by itself."""
    if subject.library is None:
        return _ours(subject)
    rows = [library_ids(subject, text) for text in PROBES]
    if any(not row for row in rows):
        return Finding(NAME, "fail", "a text gives no tokens at all", _FIX)
    tail = expected_tail(subject)
    return _foreign(subject, rows) if not tail else _marked(subject, rows, tail)


def _ours(subject: Subject) -> Finding:
    assert subject.encoder is not None
    last = (
        {ids[-1] for ids in subject.encoder.tokenize(PROBES)}
        if subject.prompt("query") or not subject.is_marked
        else set()
    )
    shown = ", ".join(repr(subject.encoder.tokenizer.convert_ids_to_tokens(id)) for id in sorted(last))
    if len(last) > 1:
        return Finding(NAME, "pass", "the text's own last token, by the prompt's wish")
    return Finding(NAME, "pass", f"dec2vec ends every text in {shown or 'what each prompt names'}")


def _marked(subject: Subject, rows: list[list[int]], tail: list[int]) -> Finding:
    shown = repr(subject.library.tokenizer.decode(tail))
    for row in rows:
        if not ends_with(row, tail):
            return Finding(NAME, "fail", f"sentence-transformers does not end texts in {shown}", _FIX)
        if ends_with(row, tail * 2):
            return Finding(NAME, "fail", f"{shown} stands twice at the end of a text", "append it in one place only")
    return Finding(NAME, "pass", f"every text ends in {shown}")


def _foreign(subject: Subject, rows: list[list[int]]) -> Finding:
    """Without our file: last-token pooling wants the same last token for all texts."""
    tokenizer = subject.library.tokenizer
    last = {row[-1] for row in rows}
    modes = subject.pooling.pooling_mode if subject.pooling is not None else ""
    if "lasttoken" not in modes:
        return Finding(NAME, "pass", f"pooling {modes or 'of its own'} does not read one last token")
    if len(last) > 1:
        what = "texts end in their own last token, which is pooled: no EOS is appended"
        return Finding(NAME, "fail", what, _FIX)
    shown = tokenizer.convert_ids_to_tokens(last.pop())
    if all(row[-2:] == row[-1:] * 2 for row in rows):
        return Finding(NAME, "fail", f"{shown!r} stands twice at the end of a text", "append it in one place only")
    return Finding(NAME, "pass", f"every text ends in {shown!r}")
