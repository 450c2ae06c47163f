"""`dec2vec check`: a good export passes everything; one that is broken in one way fails in one check, the right one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec.checks.check_model import check_model
from dec2vec.checks.finding import Finding, failed, table
from dec2vec.checks.loaded_model import PROBES, LoadedModel, load_model
from dec2vec.checks.model_files import find_model_files
from dec2vec.checks.pooling import check_spread
from dec2vec.checks.serving_files import check_serving_files
from dec2vec.cli import main
from dec2vec.config.model import ModelConfig
from scripts.checks.broken.breakages import BREAKAGES, edit, no_eos, no_normalize, pooled
from tests.export_cases import PEFT_WARNING, tuned_encoder, whiten
from tests.helpers import tiny_model_folder
from train.export.save import save_adapter, save_sentence_transformer

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
SUFFIX = {"prompt": "Is {text} it?", "tokenization": "separate"}
EXPORTS: dict[str, dict[str, Any]] = {
    "instruct": {"prompt": "instruct"},
    "merged": {"merge": True, "whiten": True},
    "full-mean": {"full": True, "pooling": "mean", "prompt": "instruct"},
    "suffix": {**SUFFIX},
    "gpt2": {"family": "gpt2", "lora": {"fan_in_fan_out": True}},
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("check")
    return {name: _export(root, name, dict(case)) for name, case in EXPORTS.items()}


def _export(root: Path, name: str, case: dict[str, Any]) -> Path:
    merge, whitened = case.pop("merge", False), case.pop("whiten", False)
    encoder = tuned_encoder(root / f"base-{case.get('family', 'llama')}", **case)
    if whitened:
        whiten(encoder)
    return save_sentence_transformer(encoder, root / name, merge, encoder.whitening)


def findings(folder: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_model(ModelConfig(name_or_path=str(folder), device="cpu"))}


EOS_OFF = "EOS is no longer appended"
BROKEN: dict[str, tuple[str, str, str]] = {
    "EOS off": ("instruct", EOS_OFF, "does not end texts in '<eos>'"),
    "EOS off, mean pooling": ("full-mean", EOS_OFF, "does not end texts in '<eos>'"),
    "suffix off": ("suffix", EOS_OFF, "does not end texts in ' it?'"),
    "EOS twice": ("instruct", "EOS is appended twice", ""),
    "padded left": ("gpt2", "padding on the left", ""),
    "zero adapter": ("instruct", "the adapter is zero", ""),
    "merged without effect": ("merged", "merged weights are the base's", ""),
    "prompt missing": ("instruct", "the prompt is lost", "the query prompt is missing"),
    "prompt of the other side": ("instruct", "documents get a prompt, too", ""),
    "prompt twice": ("instruct", "the prompt is written twice", ""),
    "prompt by name only": ("instruct", "`encode` has no default prompt", ""),
    "different ids": ("instruct", "texts are lower-cased", ""),
    "cut early": ("merged", "texts are cut after 8 tokens", "after 8 tokens, dec2vec after 160"),
    "cut never": ("merged", "texts are never cut", "after 1024 tokens, but the decoder has 256 positions"),
    "beginning cut": ("instruct", "the beginning is cut off", ""),
    "mean for last": (
        "instruct",
        "mean pooling instead of the last token",
        "uses mean pooling, but the model was trained with lasttoken",
    ),
    "first for last": ("instruct", "first token instead of the last", ""),
    "mean without prompt": ("full-mean", "the mean excludes the prompt", ""),
    "not normalised": ("instruct", "no normalisation", ""),
    "nan in the adapter": ("instruct", "nan in the adapter", ""),
    "nan in the model": ("full-mean", "nan in the model", ""),
    "float16 overflow": ("full-mean", "float16 overflows", ""),
    "torn weights": ("full-mean", "the file of the weights is incomplete", ""),
    "token without a row": ("instruct", "a token without a row", ""),
    "tokens moved": ("instruct", "two tokens have swapped ids", ""),
    "another whitening": ("merged", "another run's whitening", ""),
    "an adapter and no word how": ("instruct", "an adapter without pooling information", ""),
}
"""(export, breakage, what else its sentence says)"""
ALSO = {"first token instead of the last": ["distinct texts"]}
"""A causal decoder's first token sees nothing of the text."""


@pytest.mark.parametrize("name", EXPORTS)
def test_a_good_export_passes(exports: dict[str, Path], name: str) -> None:
    found = findings(exports[name])
    assert {finding.verdict for finding in found.values()} == {"pass"}, table(list(found.values()))


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(exports: dict[str, Path], tmp_path: Path, name: str) -> None:
    export, broken, what = BROKEN[name]
    (breakage,) = (one for one in BREAKAGES if one.name == broken)
    folder = shutil.copytree(exports[export], tmp_path / "broken")
    assert breakage.applies(folder)
    breakage.spoil(folder)
    found = findings(folder)
    assert failed(list(found.values())) == [breakage.check, *ALSO.get(broken, ())], table(list(found.values()))
    finding = found[breakage.check]
    assert breakage.says in finding.what and what in finding.what and finding.fix


def test_each_breakage_is_tested() -> None:
    assert {broken for _, broken, _ in BROKEN.values()} == {breakage.name for breakage in BREAKAGES}


def test_an_adapter_folder_of_ours_and_an_untuned_decoder(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    save_adapter(encoder, tmp_path / "run" / "adapter")
    found = findings(tmp_path / "run")
    assert failed(list(found.values())) == [] and found["adapter"].verdict == "pass"
    assert found["same vectors"].verdict == "skip"
    edit(tiny_model_folder(tmp_path / "untuned") / "config.json", max_position_embeddings=1024)
    untuned = findings(tmp_path / "untuned")
    assert failed(list(untuned.values())) == [] and untuned["pooling"].verdict == "warn"


def test_first_token_pooling_of_a_folder_without_our_file(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exports["full-mean"], tmp_path / "foreign")
    (folder / "dec2vec.json").unlink()
    assert failed(list(findings(folder).values())) == []
    edit(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    assert "pooling" in failed(list(findings(folder).values()))
    edit(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=False, pooling_mode_lasttoken=True)
    no_eos(folder)
    assert failed(list(findings(folder).values())) == ["last token"]


def drop_rope_theta(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["rope_theta"]
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def inner_layer(folder: Path) -> None:
    edit(
        folder / "sentence_bert_config.json",
        modality_config={"text": {"method": "forward", "method_output_name": ["hidden_states", 3]}},
    )


SERVED: dict[str, tuple[Callable[[Path], None], str]] = {
    "as it is": (lambda folder: None, "vLLM finds (TEI has no llama)"),
    "weighted mean": (pooled("weightedmean_tokens"), "pooling weightedmean"),
    "inner layer": (inner_layer, "an inner layer is pooled"),
    "rotary base": (drop_rope_theta, "has no rope_theta"),
    "qwen2": (lambda folder: edit(folder / "config.json", model_type="qwen2"), "TEI appends"),
    "mistral": (lambda folder: edit(folder / "config.json", model_type="mistral"), "vLLM and TEI find"),
    "adapter": (lambda folder: (folder / "config.json").unlink(), "is not merged, which"),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_servers_would_find(exports: dict[str, Path], tmp_path: Path, name: str) -> None:
    """By the files: the model is loaded as it was, so that only the files speak."""
    change, what = SERVED[name]
    folder = shutil.copytree(exports["merged"], tmp_path / "model")
    model = load_model(find_model_files(ModelConfig(name_or_path=str(folder), device="cpu")))
    change(folder)
    if name == "weighted mean":
        model.pooling.pooling_mode = "weightedmean"
    found = check_serving_files(model)
    assert what in found.what
    assert (found.verdict == "warn") == bool(found.fix) == (name not in ("as it is", "mistral", "adapter"))


def test_how_far_apart_different_texts_are(exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(find_model_files(ModelConfig(name_or_path=str(exports["instruct"]), device="cpu")))
    noise = np.random.default_rng(0).normal(size=(len(PROBES), 8))
    for spread, verdict in ((1e-4, "fail"), (0.05, "warn"), (1.0, "pass")):
        vectors = (1 + spread * noise).astype(np.float32)
        monkeypatch.setattr(LoadedModel, "routes", {"dec2vec": lambda _, found=vectors: found})
        assert check_spread(model).verdict == verdict


def test_table_exit_code_and_json(exports: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(exports["instruct"], tmp_path / "model")
    no_normalize(folder)
    assert main(["check", str(folder), "--json", str(tmp_path / "found.json"), "--device", "cpu"]) == 2
    output = capsys.readouterr()
    assert re.search("^unit length +fail +", output.out, re.MULTILINE) and "fix: add the Normalize module" in output.out
    assert "1 of 14 checks failed (unit length)" in output.err and output.err.count("\n") == 1
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["failed"] == ["unit length"] and len(written["findings"]) == 14
    assert main(["check", str(tmp_path / "none" / "of" / "it")]) == 2
    assert main(["check", str(folder), "--json", str(tmp_path / "no" / "found.json")]) == 2
    assert "create it first" in capsys.readouterr().err
