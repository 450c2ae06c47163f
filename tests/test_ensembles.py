"""Ensembles of prompts: the mean of what each member gives alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec import encoder as encoder_module
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.prompts.ensembles import default_layer, get_ensemble
from dec2vec.prompts.prompt import get_prompt
from dec2vec.prompts.templates import METAEOL
from tests.helpers import tiny_model_folder, tiny_tokenizer
from train.config import ExportConfig, TrainConfig
from train.preflight import check_config

TEXTS = ["a man?", "the cat sat on the mat.", "", "a man?", "Ünïcödé 猫"]
VIEWS = [View("last", -1), View("mean", 1), View("first_last", -2)]
CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """With room for MetaEOL's long templates, which are one token a byte here."""
    folder = tiny_model_folder(tmp_path_factory.mktemp("llama"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=600, autocast="off"))


def singly(encoder: Encoder, templates: list[str]) -> dict[View, list[np.ndarray]]:
    found = [encoder.encode_views(TEXTS, VIEWS, EncodeOptions(template)) for template in templates]
    return {view: [vectors[view] for vectors in found] for view in VIEWS}


@pytest.mark.parametrize(
    ("spec", "numbers"), [("metaeol", range(1, 9)), ("metaeol:1,3,5", (1, 3, 5)), ("metaeol:7", (7,))]
)
def test_is_the_mean_of_its_members(encoder: Encoder, spec: str, numbers: list[int]) -> None:
    alone = singly(encoder, [METAEOL[number - 1] for number in numbers])
    together = encoder.encode_views(TEXTS, VIEWS, EncodeOptions(spec))
    for view in VIEWS:
        np.testing.assert_allclose(together[view], np.mean(alone[view], axis=0), **CLOSE)
        if len(alone[view]) > 1:
            assert np.abs(together[view] - alone[view][0]).max() > 1e-3


def test_ck_and_the_mean_of_unit_vectors(encoder: Encoder) -> None:
    alone = singly(encoder, ["knowledge_enhancement", "pretended_cot"])
    raw, unit = (encoder.encode_views(TEXTS, VIEWS, EncodeOptions(spec)) for spec in ("ck", "ck+unit"))
    for view in VIEWS:
        units = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in alone[view]]
        np.testing.assert_allclose(raw[view], np.mean(alone[view], axis=0), **CLOSE)
        np.testing.assert_allclose(unit[view], np.mean(units, axis=0), **CLOSE)
        assert np.abs(raw[view] - unit[view]).max() > 1e-3


def test_encode_reads_the_ensembles_own_layer(encoder: Encoder) -> None:
    expected = encoder.encode_views(TEXTS, [View("last", -2)], EncodeOptions("ck"))[View("last", -2)]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS, prompt="ck"), expected, **CLOSE)
    assert [default_layer(spec) for spec in ("metaeol", "ck+unit", "pretended_cot_zh", "bare")] == [-1, -2, -2, -1]


def test_metaeol_equals_plain_transformers(encoder: Encoder) -> None:
    """Every template alone in a plain forward pass."""
    model = AutoModel.from_pretrained(encoder.config.name_or_path, dtype=torch.float32).eval()
    summed = np.zeros((len(TEXTS), 16))
    for row, text in enumerate(TEXTS):
        for template in METAEOL:
            ids = tiny_tokenizer()(template.replace("{text}", text), return_tensors="pt")["input_ids"]
            with torch.no_grad():
                summed[row] += model(input_ids=ids).last_hidden_state[0, -1].numpy()
    found = encoder.encode_views(TEXTS, VIEWS[:1], EncodeOptions("metaeol"))[VIEWS[0]]
    np.testing.assert_allclose(found, summed / len(METAEOL), rtol=0, atol=1e-5)


def test_own_text_only_and_windows(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 1 across windows, budgets and order; the rows of a window come whole and once."""
    expected = encoder.encode_views(TEXTS, VIEWS, EncodeOptions("ck+unit"))
    monkeypatch.setattr(encoder_module, "ENSEMBLE_WINDOW", 2)
    parts = list(encoder.iter_views(TEXTS, VIEWS, EncodeOptions("ck+unit", batch_tokens=1)))
    assert [rows.tolist() for rows, _ in parts] == [[0, 1], [2, 3], [4]]
    order = [3, 1, 4, 0, 2]
    turned = encoder.encode_views([TEXTS[row] for row in order], VIEWS, EncodeOptions("ck+unit"))
    for view in VIEWS:
        found = np.concatenate([vectors[view] for _, vectors in parts])
        np.testing.assert_allclose(found, expected[view], rtol=0, atol=1e-5)
        np.testing.assert_allclose(turned[view], expected[view][order], rtol=0, atol=1e-5)


def test_window_is_bounded_by_memory(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "ENSEMBLE_BYTES", 3 * 4 * 16 * len(VIEWS))
    assert [len(rows) for rows, _ in encoder.iter_views(TEXTS, VIEWS, EncodeOptions("ck"))] == [3, 2]


def test_configured_ensemble(encoder: Encoder) -> None:
    config = ModelConfig(name_or_path=encoder.config.name_or_path, prompt="ck", max_length=600, autocast="off")
    found = Encoder.load(config).encode(TEXTS)
    np.testing.assert_allclose(found, encoder.encode(TEXTS, prompt="ck"), **CLOSE)


@pytest.mark.parametrize("spec", ["metaeol:0", "metaeol:9", "metaeol:1,1", "metaeol:", "metaeol:a", "ck:3", "ck:-1"])
def test_members_that_are_not_there(spec: str) -> None:
    with pytest.raises(UserError, match="members must be different numbers from 1 to"):
        get_ensemble(spec, "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("metaeoll", "did you mean metaeol"), ("prompteol+unit", "unknown"), ("ck+unit {x}", "unknown")],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_ensemble(spec, "")


def test_a_template_may_begin_like_an_ensemble() -> None:
    (prompt,) = get_ensemble("ck: {text}", "").members
    assert (prompt.prefix, prompt.suffix) == ("ck: ", "")


def test_one_prompt_is_wanted_for_ids_and_for_training(encoder: Encoder) -> None:
    with pytest.raises(UserError, match="tokenize: ck consists of 2 prompts"):
        encoder.tokenize(TEXTS, prompt="ck")
    for spec in ("metaeol", "ck+unit", "metaeol:1,2"):
        with pytest.raises(UserError, match="training and export need a single prompt"):
            get_prompt(spec, "")
        with pytest.raises(UserError, match="training and export need a single prompt"):
            check_config(TrainConfig(model=ModelConfig(prompt=spec), export=ExportConfig(model=False)))
