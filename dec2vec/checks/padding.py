"""A text alone and among longer ones has the same vector."""

from __future__ import annotations

import numpy as np

from dec2vec.checks.finding import Finding
from dec2vec.checks.subject import PROBES, Subject
from dec2vec.vectors.averaging import unit_rows

PADDING = "padding"
_FIX_PADDING = (
    "set padding_side to right in tokenizer_config.json (left only for a decoder with relative positions), name a "
    "pad_token there, and pool the last real token"
)


def check_padding(subject: Subject) -> Finding:
    """Through every route; the texts differ in length, so that all but one are padded."""
    furthest = 0.0
    for route, embed in subject.routes.items():
        try:
            together = unit_rows(embed(PROBES))
        except (ValueError, IndexError) as error:
            return Finding(
                PADDING, "fail", f"{route}: a batch fails ({str(error).splitlines()[0][:120]})", _FIX_PADDING
            )
        alone = unit_rows(np.concatenate([embed([text]) for text in PROBES]))
        difference = float(np.abs(together - alone).max())
        if not difference <= subject.tolerance:
            what = f"{route}: a text's vector changes by {difference:.2g} when longer texts are in the batch"
            return Finding(PADDING, "fail", what, _FIX_PADDING)
        furthest = max(furthest, difference)
    sides = {tokenizer.padding_side for name, tokenizer in subject.tokenizers.items() if name != "dec2vec"} or {"right"}
    return Finding(PADDING, "pass", f"alone and in a batch alike (padded {', '.join(sides)}; largest {furthest:.1g})")
