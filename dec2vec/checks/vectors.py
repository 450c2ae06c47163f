"""Check the vectors: both libraries agree, they have length 1, and padding does not change them."""

from __future__ import annotations

import numpy as np

from dec2vec.checks.finding import Finding
from dec2vec.checks.loaded_model import PROBES, LoadedModel
from dec2vec.decoder.positions import length_borders
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.averaging import unit_rows

SAME_VECTORS = "same vectors"
_EXPORT_AGAIN = "export again (`dec2vec export`), because a file was changed or the library versions differ"
SIDES: tuple[Side, ...] = ("text", "query", "document")


def check_same_vectors(model: LoadedModel) -> Finding:
    """Compare the vectors of dec2vec and sentence-transformers, on each side, also for a long text."""
    if len(model.routes) < 2:
        return Finding(SAME_VECTORS, "skip", "the model can be loaded by one library only")
    texts = [*PROBES, "word after word " * 600]
    largest = 0.0
    for side in SIDES:
        ours, theirs = model.embed_ours(texts, side), model.embed_library(texts, side)
        if ours.shape != theirs.shape:
            what = f"dec2vec gives {ours.shape[1]} dimensions, sentence-transformers {theirs.shape[1]}"
            return Finding(SAME_VECTORS, "fail", what, _EXPORT_AGAIN)
        difference = float(np.abs(unit_rows(ours) - unit_rows(theirs)).max())
        if not difference <= model.tolerance:
            what = f"{side}: the vectors of dec2vec and sentence-transformers differ by {difference:.2g}"
            return Finding(SAME_VECTORS, "fail", what, _EXPORT_AGAIN)
        largest = max(largest, difference)
    return Finding(SAME_VECTORS, "pass", f"dec2vec and sentence-transformers agree to {largest:.1g}")


UNIT_LENGTH = "unit length"


def check_unit_length(model: LoadedModel) -> Finding:
    """Check that vectors have length 1. It is a failure if dec2vec.json promises it, else a warning."""
    for route, embed in model.routes.items():
        lengths = np.linalg.norm(embed(PROBES), axis=1)
        if float(np.abs(lengths - 1).max()) > model.tolerance:
            what = f"{route}: vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}"
            fix = "add the Normalize module to modules.json (or export again); otherwise compare vectors only by cosine"
            return Finding(UNIT_LENGTH, "fail" if model.is_marked else "warn", what, fix)
    return Finding(UNIT_LENGTH, "pass", "every vector has length 1")


def _border_within_reach(model: LoadedModel) -> int | None:
    """The length at which the decoder's positions change, if sentence-transformers reads longer texts."""
    if model.library is None:
        return None
    borders = length_borders(model.library[0].auto_model.config.get_text_config())
    limit = model.library.max_seq_length
    return next((border for border in borders if limit is None or limit > border), None)


PADDING = "padding"
_FIX_PADDING = (
    "set padding_side to right in tokenizer_config.json (left only for decoders with relative positions), set a "
    "pad_token there, and pool the last real token"
)


def check_padding(model: LoadedModel) -> Finding:
    """Compare vectors of texts in a batch, where all but one are padded, with vectors of each text alone."""
    furthest = 0.0
    for route, embed in model.routes.items():
        try:
            together = unit_rows(embed(PROBES))
        except (ValueError, IndexError) as error:
            return Finding(
                PADDING, "fail", f"{route}: a batch fails ({str(error).splitlines()[0][:120]})", _FIX_PADDING
            )
        alone = unit_rows(np.concatenate([embed([text]) for text in PROBES]))
        difference = float(np.abs(together - alone).max())
        if not difference <= model.tolerance:
            what = f"{route}: a text's vector changes by {difference:.2g} when longer texts are in the batch"
            return Finding(PADDING, "fail", what, _FIX_PADDING)
        furthest = max(furthest, difference)
    if (border := _border_within_reach(model)) is not None:
        what = f"above {border} tokens positions change: sentence-transformers takes those of a batch's longest text"
        return Finding(PADDING, "warn", what, f"set max_seq_length to {border}, or encode longer texts one at a time")
    sides = {tokenizer.padding_side for name, tokenizer in model.tokenizers.items() if name != "dec2vec"} or {"right"}
    return Finding(
        PADDING, "pass", f"equal alone and in a batch (padding {', '.join(sides)}; largest difference {furthest:.1g})"
    )
