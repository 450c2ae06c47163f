"""A published embedder as the base of a run: what it takes over, what it exports, and the untuned row of a report."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.checks.check_model import check_model
from dec2vec.checks.finding import failed
from dec2vec.config.load import load, validate
from dec2vec.vectors.averaging import unit_rows
from eval.config import EvalConfig
from eval.run import evaluate
from tests.eval_data import write_similarity
from tests.export_cases import PEFT_WARNING
from tests.helpers import tiny_model_folder
from tests.published_folders import PROMPTS, Folder, Layer, edit_json, write_published
from tests.tiny_run import train, write_run
from train.build import load_base
from train.config import OptimConfig, TrainConfig
from train.resolve import resolve

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["the cat sat on the mat.", "A Man Rides", "word after word " * 30, "Ünïcödé 猫"]
QWEN = Folder(prompts={"s2s": "Same: ", **PROMPTS}, default="s2s", layers=(Layer(12), Layer(6)), lower_case=True)


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(folder: Path, **options: Any) -> ModelConfig:
    return ModelConfig(**{"name_or_path": str(folder), "device": "cpu", "autocast": "off", **options})


def written(tmp_path: Path, folder: Folder, **model: Any) -> Path:
    base = write_published(tmp_path / "base", folder)
    return write_run(tmp_path, model=config(base, **model), optim=OptimConfig(steps=2, lr=1e-2))


def sides(model: SentenceTransformer, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of both libraries on each side."""
    library = [model.encode, model.encode_query, model.encode_document]
    theirs = [encode([text], normalize_embeddings=True) for encode in library for text in TEXTS]
    ours = [encoder.encode(TEXTS, side=side, progress=False) for side in ("text", "query", "document")]
    return np.concatenate(theirs), np.concatenate(ours)


@pytest.mark.parametrize("merge", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_a_run_keeps_the_reading_of_its_base(tmp_path: Path, merge: str, caplog: pytest.LogCaptureFixture) -> None:
    path, out = written(tmp_path, QWEN), tmp_path / "out"
    with caplog.at_level(logging.INFO):
        train(path, out, "--export.merge", merge)
    taken = next(line for line in caplog.messages if "is a published embedder" in line)
    assert "'query': 'Find the answer: '" in taken and "texts end in <pad>; pooling last of layer -1" in taken
    assert taken.endswith("2 Dense layers, kept as they are; max_length 40")
    resolved = load(TrainConfig, out / "config.yaml", []).model
    assert (resolved.prompt, resolved.pooling, resolved.max_length) == ("published", "last", 40)

    base, model = (SentenceTransformer(str(folder), device="cpu") for folder in (tmp_path / "base", out / "model"))
    assert (model.prompts, model.default_prompt_name) == (base.prompts, "s2s")
    assert model.max_seq_length == base.max_seq_length == 40
    for number in ("2", "3"):
        kept, before = (
            load_file(place / f"{number}_Dense/model.safetensors") for place in (out / "model", tmp_path / "base")
        )
        assert kept.keys() == before.keys() and all(torch.equal(kept[name], before[name]) for name in before)
    encoder = Encoder.load(config(out if merge == "false" else out / "model"))
    theirs, ours = sides(model, encoder)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    untuned, _ = sides(base, encoder)
    assert float(np.abs(untuned - theirs).max()) > 1e-3, "it was tuned"
    assert not failed(check_model(config(out / "model")))


@pytest.mark.slow
def test_whitening_follows_the_dense_layers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(written(tmp_path, QWEN), out, "--export.whiten", "true")
    names = [module["path"] for module in json.loads((out / "model" / "modules.json").read_text())]
    assert names == ["", "1_Pooling", "2_Dense", "3_Dense", "4_Dense", "5_Normalize"]
    theirs, ours = sides(SentenceTransformer(str(out / "model"), device="cpu"), Encoder.load(config(out / "model")))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert "Two ways to compute the same vectors" in (out / "model" / "README.md").read_text()


def test_the_loss_is_of_the_vectors_after_the_dense_layers(tmp_path: Path) -> None:
    base = write_published(tmp_path / "base", QWEN)
    encoder = load_base(config(base))
    ids = encoder.tokenize(TEXTS[:1])
    (vectors,) = encoder.embedder(torch.tensor(ids), torch.tensor([len(ids[0])]))
    expected = SentenceTransformer(str(base), device="cpu").encode(TEXTS[:1])
    np.testing.assert_allclose(unit_rows(vectors.detach().numpy()), expected, rtol=0, atol=1e-5)
    vectors.sum().backward()
    weights = encoder.embedder.backbone.layers[0].self_attn.q_proj.weight
    assert weights.grad is not None and float(weights.grad.abs().max()) > 0
    assert not [name for name, _ in encoder.embedder.named_parameters() if name.startswith("head")], "it stays as it is"


def test_the_configuration_comes_first(tmp_path: Path) -> None:
    base = write_published(tmp_path / "base", QWEN)
    asked = {"pooling": "mean", "prompt": "bare", "max_length": 30}
    model = resolve(validate(TrainConfig, {"model": {"name_or_path": str(base), "device": "cpu", **asked}})).model
    assert {name: getattr(model, name) for name in asked} == asked and model.layer is None
    decoder = str(tiny_model_folder(tmp_path / "plain"))
    plain = resolve(validate(TrainConfig, {"model": {"name_or_path": decoder, "device": "cpu"}})).model
    assert (plain.pooling, plain.prompt) == ("last", "bare")


REFUSED: dict[str, tuple[Folder, str]] = {
    "prompt not pooled": (Folder("mean_tokens", prompts=PROMPTS, include_prompt=False), "leaves out the prompt"),
    "chat template": (Folder(ending=False), "the base puts texts into its chat template"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_can_not_keep_is_refused_before_the_first_step(tmp_path: Path, case: str) -> None:
    folder, message = REFUSED[case]
    path = written(tmp_path, folder)
    if case == "chat template":
        text = {"method": "forward", "method_output_name": "last_hidden_state"}
        modalities = {"text": text, "message": {**text, "format": "flat"}}
        transformer = tmp_path / "base" / "sentence_bert_config.json"
        edit_json(transformer, modality_config=modalities, module_output_name="token_embeddings")
        edit_json(tmp_path / "base" / "tokenizer_config.json", chat_template="{{ messages[-1]['content'] }}<eos>")
    with pytest.raises(UserError, match=message):
        train(path, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("dev", [True, False])
def test_the_untuned_row_is_the_published_model(tmp_path: Path, dev: bool) -> None:
    base = write_published(tmp_path / "base", QWEN)
    test = write_similarity(tmp_path / "t.jsonl", 30, 3)
    tree: dict[str, object] = {
        "model": {"name_or_path": str(base), "device": "cpu", "autocast": "off"},
        "tests": [str(test)],
        "bootstrap": 100,
        "output_dir": str(tmp_path / "out"),
    }
    if dev:
        tree |= {"dev": str(write_similarity(tmp_path / "dev.jsonl", 20, 1))}
        tree |= {"systems": {"prompts": ["bare"], "poolings": ["mean"], "layers": [-1], "post": ["raw"]}}
    report = evaluate(validate(EvalConfig, tree), progress=False)
    rows = {row.system: row for row in report.results if (row.task, row.metric) == ("t", "spearman_all")}
    name = "untuned/published/last@3+dense"
    assert set(rows) >= ({name, "untuned/bare/mean@3"} if dev else {name}), "other readings are rows beside it"
    pairs = [json.loads(line) for line in test.read_text().splitlines()]
    model = SentenceTransformer(str(base), device="cpu")
    left, right = (model.encode([pair[side] for pair in pairs]) for side in ("sentence1", "sentence2"))
    cosines = (left * right).sum(1).round(6)  # equal texts have a cosine of exactly 1
    expected = spearmanr(cosines, [pair["score"] for pair in pairs]).statistic
    assert rows[name].value == pytest.approx(float(expected), abs=1e-9)
