"""Small tuned encoders to export, for the tests of export, model card and Hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from dec2vec.config.load import dump
from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.encoder import Encoder
from dec2vec.vectors.whitening import Moments, fit_whitening
from tests.helpers import tiny_model_folder
from train.config import TrainConfig
from train.export.save import save_adapter

PEFT_WARNING = "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
"""peft 0.21 asks transformers 5.23 by the old name."""
MAX_LENGTH = 160
TEXTS = [
    "A man is playing a guitar.",
    "",
    "long text, cut before its end " * 30,
    "na\u00efve caf\u00e9 \u6771\u4eac \U0001f600",
    '  "Is it 3.50?"  she said\tand left\n',
    "Is it?",
    "no period",
    "\u0130zmir \u03a3\u0399\u03a3",
]
BASE = ModelConfig(max_length=MAX_LENGTH, autocast="off", device="cpu")


def tuned_encoder(
    folder: Path,
    *,
    family: str = "llama",
    full: bool = False,
    lora: dict[str, Any] | None = None,
    **config: Any,
) -> Encoder:
    """An encoder whose adapter (or, with `full`, whose weights) moved far enough to be seen in every vector."""
    if not (folder / "config.json").is_file():
        tiny_model_folder(folder, family)
    encoder = Encoder.load(dataclasses.replace(BASE, name_or_path=str(folder), **config))
    torch.manual_seed(1)
    if not full:
        adapters = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **(lora or {})})
        encoder.embedder.backbone = get_peft_model(encoder.embedder.backbone, adapters)
    with torch.no_grad():
        for name, parameter in encoder.embedder.backbone.named_parameters():
            whole = full or "modules_to_save" in name
            if "lora_B" in name or (whole and parameter.dim() == 2):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    encoder.embedder.eval()
    return encoder


def finished_run(root: Path, family: str = "llama") -> Path:
    """A run folder with an adapter, prompt instruct, and its base beside it."""
    encoder = tuned_encoder(root / "base", family=family, prompt="instruct", lora={"fan_in_fan_out": family == "gpt2"})
    save_adapter(encoder, root / "run" / "adapter")
    config = TrainConfig(model=dataclasses.replace(BASE, name_or_path=str(root / "base"), prompt="instruct"))
    (root / "run" / "config.yaml").write_text(dump(config), encoding="utf-8")
    return root / "run"


def whiten(encoder: Encoder, k: int = 8) -> None:
    """Fit a whitening on a few hundred numbers in words."""
    view = encoder.embedder.view
    texts = [f"text {i} of {i * i}" for i in range(400)]
    raw = encoder.encode_views(texts, [view], EncodeOptions(progress=False))[view]
    moments = Moments(raw.shape[1])
    moments.update(raw)
    encoder.whitening = fit_whitening(moments, k=k)


def both_sides(encoder: Encoder, texts: list[str] = TEXTS) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Query vectors, then document vectors, each text alone so that no batch can matter."""
    sides = [encoder.encode([text], side=side, progress=False) for side in ("query", "document") for text in texts]
    return np.concatenate(sides)
