"""dec2vec turns decoder LLMs into text embedders. Names are imported on first use, so that `--help` stays fast."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dec2vec.config.model import ModelConfig as ModelConfig
    from dec2vec.encoder import Encoder as Encoder
    from dec2vec.errors import UserError as UserError
    from dec2vec.vectors.whitening import Whitening as Whitening

__version__ = "0.1.0"
__all__ = ["Encoder", "ModelConfig", "UserError", "Whitening"]
_HOMES = {
    "Encoder": "dec2vec.encoder",
    "ModelConfig": "dec2vec.config.model",
    "UserError": "dec2vec.errors",
    "Whitening": "dec2vec.vectors.whitening",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dec2vec' has no attribute {name!r}")
    value: object = vars(import_module(_HOMES[name]))[name]
    return value
