"""The benches run whole on a tiny model, both sides agree there, and a side that computes something else is found."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts/benchmarks"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def train(folder: Path, *arguments: str) -> dict[str, Any]:
    """The training bench with both sides in this process."""
    bench = script("bench_train")
    small = ["--model", "llama-tiny", "--batch", "8", "--repeats", "1", "--threads", "1", "--precision", "fp32"]
    options = bench.parse([*small, *arguments])
    local = script("bench.processes").Local
    result: dict[str, Any] = bench.run(options, folder, lambda kind, work, limited: local(kind, work))
    return result


@pytest.mark.parametrize("case", ["prompt", "triplets"])
def test_both_sides_agree(tmp_path: Path, case: str) -> None:
    result = train(tmp_path, "--case", case, "--peer", "st")
    assert result["gradient_cosine"] > 0.9999 and not result["void"]
    assert result["peer"]["forward_positions_per_token"] > result["ours"]["forward_positions_per_token"]
    assert result["ratio_seconds"]["low"] <= result["ratio_seconds"]["median"] <= result["ratio_seconds"]["high"]
    assert (result["ours"]["padding_ratio"] < 1) == (case == "prompt")


def test_another_model_is_void(tmp_path: Path) -> None:
    """The negative control: one side pools another layer."""
    result = train(tmp_path, "--peer", "self", "--peer-set", "model.layer=1")
    assert result["void"]
    assert not train(tmp_path, "--peer", "self", "--peer-set", "lora.fused=false", "batch.graph_tokens=0")["void"]


def test_encode(tmp_path: Path) -> None:
    bench = script("bench_encode")
    for prompt in ("prompteol", "bare"):
        arguments = ["--model", "llama-tiny", "--texts", "16", "--repeats", "1", "--threads", "1", "--peer", "st"]
        result = bench.run(bench.parse(["--prompt", prompt, *arguments]), tmp_path)
        assert result["least_cosine"] > 0.9999 and not result["void"]


def test_lengths_are_as_stated() -> None:
    texts = script("bench.texts")
    tokenizer = script("bench.models").make_tokenizer(512)
    for case in ("short", "long"):
        for place, stated in enumerate(texts.CASES[case]):
            rows = [list(row.values())[place] for row in texts.make_rows(case, 300, tokenizer)]
            counts = np.array([len(ids) for ids in tokenizer(rows).input_ids])
            assert counts.mean() == pytest.approx(stated.mean, rel=0.2) and counts.max() <= texts.MAX_TOKENS
    assert len(tokenizer(texts.make_prompt("prompt", tokenizer), add_special_tokens=False).input_ids) >= 38


def test_a_profile_leaves_no_second_out() -> None:
    profile = script("profile_step")
    named = {"aten::addmm": "matrix products", "aten::mul": "elementwise and the rest", "aten::copy_": "copies"}
    assert {name: profile.kind_of(name) for name in named} == named
    lines = profile.table({"aten::addmm": 1.0, "aten::mm": 0.5, "aten::mul": 0.25}, 1.5, 2.0, top=2).splitlines()
    kinds, operators = lines[1 : lines.index("")], lines[lines.index("") + 1 :]
    assert lines[0] == "a step: 1.500 s, 2.000 s of processor time; its operators 1.750 s"
    assert kinds[0].split()[-2:] == ["85.7", "%"] and kinds[0].startswith("matrix products")
    assert sum(float(line.split()[-2]) for line in kinds) == pytest.approx(100.0)
    assert [line.split()[0] for line in operators] == ["aten::addmm", "aten::mm"]
