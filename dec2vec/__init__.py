"""dec2vec turns decoder LLMs into text embedders. Names are imported on first use, so that `--help` stays fast."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dec2vec.api import Evaluation as Evaluation
    from dec2vec.api import TrainingRun as TrainingRun
    from dec2vec.api import evaluate as evaluate
    from dec2vec.api import train as train
    from dec2vec.config.model import ModelConfig as ModelConfig
    from dec2vec.encoder import Encoder as Encoder
    from dec2vec.errors import UserError as UserError
    from dec2vec.vectors.whitening import Whitening as Whitening

__version__ = "0.1.0"
__all__ = ["Encoder", "Evaluation", "ModelConfig", "TrainingRun", "UserError", "Whitening", "evaluate", "train"]
_HOMES = {
    "Encoder": "dec2vec.encoder",
    "Evaluation": "dec2vec.api",
    "ModelConfig": "dec2vec.config.model",
    "TrainingRun": "dec2vec.api",
    "UserError": "dec2vec.errors",
    "Whitening": "dec2vec.vectors.whitening",
    "evaluate": "dec2vec.api",
    "train": "dec2vec.api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dec2vec' has no attribute {name!r}")
    value: object = vars(import_module(_HOMES[name]))[name]
    return value
