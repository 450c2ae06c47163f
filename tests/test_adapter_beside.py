"""An adapter that lies beside merged weights is not added to them again; an adapter alone is refused as one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel

from dec2vec.checks.adapter import check_adapter
from dec2vec.checks.check_model import check_model
from dec2vec.checks.loaded_model import load_model
from dec2vec.checks.model_files import find_model_files
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING
from tests.helpers import tiny_model_folder, tiny_tokenizer
from tests.tiny_run import train, write_run
from train.config import EvalSection

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["a man is riding a horse", "the cat sat"]


def adapted(base: Path) -> PeftModel:
    torch.manual_seed(0)
    with quiet():
        model = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    return model


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """An adapter and, in the same folder, the weights that it was merged into (PEFT's issue 1381)."""
    model = adapted(tiny_model_folder(tmp_path / "base"))
    model.save_pretrained(tmp_path / "both")
    for folder in ("both", "merged"):
        tiny_tokenizer().save_pretrained(tmp_path / folder)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    merged.save_pretrained(tmp_path / "both")
    return tmp_path / "both"


def load(folder: Path) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=64, autocast="off", device="cpu"))


def plain(folder: Path, ids: list[list[int]]) -> np.ndarray:
    """Unit vectors of the last token by plain transformers."""
    with quiet(), torch.no_grad():
        model = AutoModel.from_pretrained(folder)
        rows = [model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in ids]
    return torch.nn.functional.normalize(torch.stack(rows)).numpy()


def test_the_merged_weights_alone_are_read(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = load(both)
    assert "the weights are read alone, without the adapter beside them" in caplog.text
    ours = encoder.encode(TEXTS, progress=False)
    truth = plain(both.with_name("merged"), encoder.tokenize(TEXTS))
    np.testing.assert_allclose(ours, truth, atol=1e-6)
    twice = plain(both, encoder.tokenize(TEXTS))  # as transformers reads it, and as dec2vec did
    assert np.abs(twice - truth).max() > 0.01


def test_check_agrees(both: Path) -> None:
    found = check_adapter(load_model(find_model_files(ModelConfig(name_or_path=str(both), max_length=64))))
    assert (found.verdict, found.check) == ("warn", "adapter") and "lies beside complete weights" in found.what
    merged = check_adapter(
        load_model(find_model_files(ModelConfig(name_or_path=str(both.with_name("merged")), max_length=64)))
    )
    assert merged.verdict == "skip"


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_alone_is_refused_as_one(both: Path, with_config: bool) -> None:
    (both / "model.safetensors").unlink()
    if not with_config:
        (both / "config.json").unlink()
    base = both.with_name("base")
    with pytest.raises(UserError, match=f"it is a PEFT adapter of {base} and not a model.*merge it into its base"):
        load(both)
    (loads,) = [row for row in check_model(ModelConfig(name_or_path=str(both), max_length=64)) if row.check == "loads"]
    assert loads.verdict == "fail" and "it is a PEFT adapter" in loads.what


@pytest.mark.parametrize("merge", [False, True])
def test_training_starts_from_the_merged_weights(
    both: Path, tmp_path: Path, merge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    model = ModelConfig(name_or_path=str(both), max_length=64, device="cpu", autocast="off")
    config = write_run(tmp_path / "work", model=model, eval=EvalSection(after_training=False))
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path / "work")
    train(config, run, "--export.merge", str(merge).lower(), "--optim.steps", "2", "--optim.lr", "0.05")
    ours = Encoder.load(ModelConfig(name_or_path=str(run), device="cpu"))
    vectors = ours.encode(TEXTS, progress=False)
    library = SentenceTransformer(str(run / "model"), device="cpu")
    np.testing.assert_allclose(vectors, library.encode(TEXTS), atol=1e-5)
    assert np.abs(vectors - load(both).encode(TEXTS, progress=False)).max() > 0.01
