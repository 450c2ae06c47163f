"""The benches run whole on a tiny model, both sides agree there, and a side that computes something else is found."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

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
    options = bench.parse([*small, *arguments])  # a later option wins
    local = script("bench.processes").Local
    result: dict[str, Any] = bench.run(options, folder, lambda kind, work, limited: local(kind, work))
    return result


@pytest.mark.slow
def test_a_bfloat16_base_has_gradients_of_16_bits(tmp_path: Path) -> None:
    """sentence-transformers gives adapters the dtype of the base."""
    result = train(tmp_path, "--case", "2x30", "--peer", "st", "--precision", "bf16", "--base", "bfloat16")
    assert result["gradient_cosine"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("case", ["prompt", "triplets"])
def test_both_sides_agree(tmp_path: Path, case: str) -> None:
    result = train(tmp_path, "--case", case, "--peer", "st")
    assert result["gradient_cosine"] > 0.9999 and not result["void"]
    assert result["peer"]["forward_positions_per_token"] > result["ours"]["forward_positions_per_token"]
    assert result["ratio_seconds"]["low"] <= result["ratio_seconds"]["median"] <= result["ratio_seconds"]["high"]
    assert (result["ours"]["padding_ratio"] < 1) == (case == "prompt")


def test_the_peer_computes_both_passes_in_bfloat16(tmp_path: Path) -> None:
    """As its users run it; with autocast around the loss alone its second pass was in float32."""
    seen = []
    processes = script("bench.processes")

    class Spied(processes.Local):
        def __init__(self, kind: str, work: Any) -> None:
            super().__init__(kind, work)
            if kind == "peer" and work.precision == "bf16":
                projection = self._side.backbone().layers[0].self_attn.q_proj
                projection.register_forward_hook(lambda _, __, out: seen.append((torch.is_grad_enabled(), out.dtype)))

    bench = script("bench_train")
    small = ["--model", "llama-tiny", "--batch", "8", "--repeats", "1", "--threads", "1", "--precision", "bf16"]
    result = bench.run(bench.parse([*small, "--peer", "st"]), tmp_path, lambda kind, work, _: Spied(kind, work))
    assert {(False, torch.bfloat16), (True, torch.bfloat16)} == set(seen)
    assert result["float32_cosine"]["peer"] > 0.99 and len(result["matmul_peak_gflops"]) == 1


@pytest.mark.slow
def test_a_chat_template_changes_nothing_and_other_ids_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = script("bench.models").model_folder("llama-tiny", tmp_path / "chat")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}user: {{ m['content'] }}{% endfor %}")
    assert not train(tmp_path, "--peer", "st", "--model", str(folder))["void"]
    peer = script("bench.peer").Peer
    real = peer.token_ids
    monkeypatch.setattr(peer, "token_ids", lambda self, number: [[1, *ids] for ids in real(self, number)])
    with pytest.raises(SystemExit, match="text 0 of batch 0 has other token ids"):
        train(tmp_path, "--peer", "st")


def test_a_row_is_void_where_our_gradient_is_further_from_float32() -> None:
    agreement = script("bench.report").agreement
    truth = {"w": np.array([1.0, 0.0])}
    near, far, other = ({"w": np.array([1.0, angle])} for angle in (0.01, 0.02, 3.0))
    assert not agreement({"ours": near, "peer": far}, truth)["void"]
    assert agreement({"ours": far, "peer": near}, truth)["void"]
    assert agreement({"ours": near, "peer": other}, truth)["void"]  # the peer computes something else
    assert not agreement({"ours": truth, "peer": truth}, truth)["void"]


@pytest.mark.slow
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


@pytest.mark.slow
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
