"""What a finished run leaves: a whitened model folder, a merged one to train on from, the weights dev liked best."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from dec2vec import Encoder, ModelConfig
from dec2vec.config.load import load as load_config
from dec2vec.vectors.whitening import Whitening
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, write_jsonl
from tests.tiny_run import STEPS, metrics_of, train, write_run
from train.config import EvalSection, TrainConfig
from train.export.export import ExportArgs, export_command
from train.resolve import resolve
from train.state import TrainState

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["red green", "a small blue cat", ""]


def load(path: Path) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(path), device="cpu"))


@pytest.mark.slow
def test_a_whitened_run_is_whitened_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "plain")
    train(config, tmp_path / "out", "--export.whiten", "true")
    whitening = Whitening.load(tmp_path / "out" / "model" / "whitening.safetensors")
    raw = load(tmp_path / "plain").encode(TEXTS, normalize=False)
    expected = whitening.apply(raw)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for found in (
        load(tmp_path / "out" / "model").encode(TEXTS),
        SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu").encode(TEXTS),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected[:, : raw.shape[1]] - raw[:, : expected.shape[1]]).max() > 1e-2


@pytest.mark.slow
def test_training_goes_on_from_a_merged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "first")
    merged = export_command(ExportArgs(run=tmp_path / "first", to=tmp_path / "merged", merge=True))
    train(config, tmp_path / "second", "--model.name_or_path", str(merged))
    once, twice = load(tmp_path / "first").encode(TEXTS), load(tmp_path / "second").encode(TEXTS)
    assert np.abs(once - twice).max() > 1e-3
    first, second = (
        [line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line] for name in ("first", "second")
    )
    assert second[0] < first[0] and len(second) == STEPS


def test_tests_without_dev_are_reported_with_the_last_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is chosen: the tuned run, and the untuned decoder read as it, with the usual outside row."""
    config = write_run(tmp_path, eval=EvalSection(tests=("test.jsonl",)))
    write_jsonl(tmp_path / "test.jsonl", graded_pairs(40))
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "out", "--optim.steps", "2", "--checkpoint.every", "1")
    report = json.loads((tmp_path / "out/report/report.json").read_text(encoding="utf-8"))
    rows = [row for row in report["results"] if (row["metric"], row["task"]) == ("spearman_all", "test")]
    found = [(row["kind"], row["run"], row["chosen_on"]) for row in rows if row["kind"] != "difference"]
    assert found == [("system", "out", None), ("system", None, None), ("baseline", None, None)]
    assert f"{100 * rows[0]['value']:.2f}" in (tmp_path / "out/model/README.md").read_text(encoding="utf-8")
    steps = [f"checkpoints/step-{number:06d}/adapter.safetensors" for number in (1, 2)]
    adapter, first, last = (
        {tensor.tobytes() for tensor in load_file(tmp_path / "out" / path).values()}
        for path in ("adapter/adapter_model.safetensors", *steps)
    )
    assert adapter <= last and not adapter <= first


def test_a_prompt_with_text_behind_its_slot_needs_no_further_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The suffix is then tokenized separately, as sentence-transformers does; the untuned decoder's stays joint."""
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", logger="train"):
        bare = resolve(load_config(TrainConfig, config, []))
        assert bare.model.tokenization == "joint" and "model.tokenization" not in caplog.text
        train(config, tmp_path / "out", "--model.prompt", "{text}he cat", "--optim.steps", "1")
    assert caplog.text.count("model.tokenization is separate, because the prompt '{text}he cat' has text after") == 1
    tuned = load(tmp_path / "out" / "model")
    library = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS), tuned.encode(TEXTS), atol=1e-5)
    written = load_config(TrainConfig, tmp_path / "out" / "config.yaml", []).model
    base = Encoder.from_backbone(written.untuned)
    assert (written.tokenization, tuned.config.tokenization, base.config.tokenization) == ("separate",) * 2 + ("joint",)
    assert base.tokenize(["t"]) == [base.tokenizer("the cat")["input_ids"]]
    assert tuned.tokenize(["t"]) != base.tokenize(["t"])


def test_the_best_step() -> None:
    state = TrainState()
    assert not state.note_score(math.nan) and state.best_step is None
    assert state.note_score(-0.5)
    state.step = 2
    assert state.note_score(0.4)
    state.step = 3
    assert not state.note_score(0.4) and not state.note_score(math.nan)
    assert (state.best_step, state.best_score) == (2, 0.4)
    assert state.worse_scores == 2  # the equal one, and the one that is none: what eval.patience counts
    assert state.note_score(0.5) and state.worse_scores == 0
