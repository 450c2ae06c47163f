"""Every kind of adapter that training offers, with weights that have moved far, by every route out of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.encoder import Encoder
from tests.export_cases import PEFT_WARNING
from tests.helpers import tiny_model_folder
from train.adapters.lora import make_trainable, trainable_parameters
from train.config import LoraConfig
from train.export.save import MAGNITUDE, save_adapter, save_sentence_transformer

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "dora with rslora": {"dora": True, "rslora": True},
    "dora of some modules": {"dora": True, "targets": ("q_proj", "down_proj"), "layers": (1,)},
    "dora with embeddings": {"dora": True, "modules_to_save": ("embed_tokens",)},
    "embeddings": {"modules_to_save": ("embed_tokens",)},
    "final norm": {"modules_to_save": ("norm",)},
    "full": {"method": "full"},
}
TEXTS = ["A man is playing a guitar.", "", "the cat sat on the mat", "na\u00efve caf\u00e9"]
Vectors = np.ndarray[Any, Any]


def moved(folder: Path, family: str = "llama", **lora: Any) -> Encoder:
    """An encoder whose trained weights are all far from where they began."""
    tiny_model_folder(folder, family)
    config = ModelConfig(name_or_path=str(folder), max_length=64, autocast="off", device="cpu")
    encoder = Encoder.load(config)
    torch.manual_seed(1)
    make_trainable(encoder.embedder, LoraConfig(rank=4, alpha=8, **lora))
    with torch.no_grad():
        for parameter in trainable_parameters(encoder.embedder).values():
            parameter.mul_(1 + 0.5 * torch.rand_like(parameter)).add_(torch.randn_like(parameter), alpha=0.1)
    encoder.embedder.eval()
    return encoder


def by_ours(folder: Path) -> Vectors:
    return Encoder.load(ModelConfig(name_or_path=str(folder), device="cpu")).encode(TEXTS, progress=False)


def by_library(folder: Path) -> Vectors:
    with quiet():
        return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))


def by_peft(base: Path, adapter: Path, ids: list[list[int]]) -> Vectors:
    with quiet(), torch.no_grad():
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(adapter)).eval()
        rows = [model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in ids]
    return torch.nn.functional.normalize(torch.stack(rows)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_every_export_is_the_trained_model(kind: str, tmp_path: Path) -> None:
    encoder = moved(tmp_path / "base", **KINDS[kind])
    expected = encoder.encode(TEXTS, progress=False)
    assert np.abs(by_ours(tmp_path / "base")[:, : expected.shape[1]] - expected).max() > 0.05
    run = save_adapter(encoder, tmp_path / "run" / "adapter")
    kept = save_sentence_transformer(encoder, tmp_path / "kept", False, None)
    merged = save_sentence_transformer(encoder, tmp_path / "merged", True, None)
    found = {"run": by_ours(run), "kept": by_ours(kept), "merged": by_ours(merged)}
    found |= {f"{folder.name} by the library": by_library(folder) for folder in (kept, merged)}
    if KINDS[kind].get("method") != "full":
        ids = encoder.tokenize(TEXTS)
        found |= {f"{folder.name} by PEFT": by_peft(tmp_path / "base", folder, ids) for folder in (run, kept)}
    assert {name: bool(np.abs(vectors - expected).max() < 1e-5) for name, vectors in found.items()} == dict.fromkeys(
        found, True
    )


def test_dora_of_gpt2_whose_matrices_are_transposed(tmp_path: Path) -> None:
    encoder = moved(tmp_path / "base", "gpt2", dora=True, targets=("c_attn", "c_fc"))
    expected = encoder.encode(TEXTS, progress=False)
    for merge in (False, True):
        folder = save_sentence_transformer(encoder, tmp_path / f"export-{merge}", merge, None)
        np.testing.assert_allclose(by_library(folder), expected, atol=1e-5)


def test_magnitudes_as_peft_spells_them_are_lost(tmp_path: Path) -> None:
    """What the exported spelling is for: if transformers reads PEFT's own one day, this fails and it can go."""
    encoder = moved(tmp_path / "base", dora=True)
    kept = save_sentence_transformer(encoder, tmp_path / "kept", False, None)
    file = kept / "adapter_model.safetensors"
    names = load_file(file)
    assert sum(name.endswith(f"{MAGNITUDE}.weight") for name in names) == sum("lora_B" in name for name in names) > 0
    save_file({name.replace(f"{MAGNITUDE}.weight", MAGNITUDE): tensor for name, tensor in names.items()}, file)
    assert np.abs(by_library(kept) - encoder.encode(TEXTS, progress=False)).max() > 0.05
