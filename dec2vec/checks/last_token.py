"""Check that texts end exactly once in the token that is pooled: EOS, or the end of the prompt's suffix.

transformers 5 no longer honours `add_eos_token` in many tokenizers. A model that then pools the last token of the text
itself gives vectors that look plausible but are worse.
"""

from __future__ import annotations

from dec2vec.checks.finding import Finding
from dec2vec.checks.library_tokens import ends_with, expected_tail, library_ids
from dec2vec.checks.loaded_model import PROBES, LoadedModel

NAME = "last token"
_FIX = "let the post_processor of tokenizer.json append it (`dec2vec export` does); add_eos_token is ignored"


def check_last_token(model: LoadedModel) -> Finding:
    """Check the ids of sentence-transformers. The encoder of dec2vec appends the token itself."""
    if model.library is None:
        return _ours(model)
    rows = [library_ids(model, text) for text in PROBES]
    if any(not row for row in rows):
        return Finding(NAME, "fail", "a text is tokenized into no tokens", _FIX)
    tail = expected_tail(model)
    return _foreign(model, rows) if not tail else _marked(model, rows, tail)


def _ours(model: LoadedModel) -> Finding:
    assert model.encoder is not None
    last = (
        {ids[-1] for ids in model.encoder.tokenize(PROBES)} if model.prompt("query") or not model.is_marked else set()
    )
    shown = ", ".join(repr(model.encoder.tokenizer.convert_ids_to_tokens(id)) for id in sorted(last))
    if len(last) > 1:
        return Finding(NAME, "pass", "the prompt pools the last token of the text itself")
    return Finding(NAME, "pass", f"dec2vec ends every text in {shown or 'what each prompt names'}")


def _marked(model: LoadedModel, rows: list[list[int]], tail: list[int]) -> Finding:
    shown = repr(model.library.tokenizer.decode(tail))
    for row in rows:
        if not ends_with(row, tail):
            return Finding(NAME, "fail", f"sentence-transformers does not end texts in {shown}", _FIX)
        if ends_with(row, tail * 2):
            return Finding(NAME, "fail", f"{shown} appears twice at the end of a text", "append it in one place only")
    return Finding(NAME, "pass", f"every text ends in {shown}")


def _foreign(model: LoadedModel, rows: list[list[int]]) -> Finding:
    """For a model without dec2vec.json: last-token pooling needs the same last token in all texts."""
    tokenizer = model.library.tokenizer
    last = {row[-1] for row in rows}
    modes = model.pooling.pooling_mode if model.pooling is not None else ""
    if "lasttoken" not in modes:
        return Finding(NAME, "pass", f"pooling {modes or 'of its own'} does not use a single last token")
    if len(last) > 1:
        what = "no EOS is appended, so the last token of each text is pooled"
        return Finding(NAME, "fail", what, _FIX)
    shown = tokenizer.convert_ids_to_tokens(last.pop())
    if all(row[-2:] == row[-1:] * 2 for row in rows):
        return Finding(NAME, "fail", f"{shown!r} appears twice at the end of a text", "append it in one place only")
    return Finding(NAME, "pass", f"every text ends in {shown!r}")
