"""Unsupervised SimCSE (Gao et al. 2021) needs dropout: it is all that tells the two views of a text apart."""

from __future__ import annotations

from collections.abc import Mapping

from dec2vec.errors import UserError
from train.config import LoraConfig

_OTHER_HEADS = ("classifier", "summary", "cls")
"""Dropout of task heads (GPT-2 has 0.1 in `summary_first_dropout`), which embedding models don't have."""


def check_dropout(architecture: Mapping[str, object], lora: LoraConfig, source: str) -> None:
    """Refuse two views of a text from `source` where they would be equal.

    `architecture` is the decoder's own configuration, `config.get_text_config().to_dict()`.
    """
    if (lora.method == "lora" and lora.dropout > 0) or any(_drops(*entry) for entry in architecture.items()):
        return
    fix = "--lora.dropout 0.1" if lora.method == "lora" else "--lora.method lora --lora.dropout 0.1"
    raise UserError(f"{source}: two views of a text differ by dropout alone, and every dropout is 0; add {fix}")


def _drops(name: str, value: object) -> bool:
    """A positive rate, whatever the family calls it: attention_dropout, resid_pdrop, hidden_dropout, layerdrop."""
    return "drop" in name and not name.startswith(_OTHER_HEADS) and isinstance(value, float) and value > 0
