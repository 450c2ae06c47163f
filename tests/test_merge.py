"""Merged runs against float64 sums of dense weights, scipy's arc, and each other's route."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.spatial import geometric_slerp

from dec2vec import Encoder, ModelConfig
from dec2vec.cli import main
from dec2vec.config.load import dump, load
from dec2vec.decoder.model_folders import find
from tests.export_cases import PEFT_WARNING, tuned_encoder
from train.config import LoraConfig, TrainConfig
from train.export.export import ExportArgs, export_command
from train.export.save import save_adapter
from train.merging.full_weights import load_folded, slerp_whole
from train.merging.low_rank import LowRank, inner, slerp_weights, truncate, weighted_sum
from train.options.data import SourceConfig

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["red green", "a small blue cat", "", "the old man sings to a horse"]
PLAIN: dict[str, Any] = {"r": 4, "lora_alpha": 8}


def write_run(folder: Path, name: str, seed: int, **options: Any) -> Path:
    """A run folder as training leaves it, its weights moved by `seed`."""
    encoder = tuned_encoder(folder / "base", **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, parameter in encoder.embedder.backbone.named_parameters():
            if "lora_B" in key or (options.get("full") and parameter.dim() == 2):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    run = folder / name
    run.mkdir()
    save_adapter(encoder, run / "adapter")
    is_full = bool(options.get("full"))
    config = TrainConfig(
        model=encoder.config,
        lora=LoraConfig(method="full") if is_full else LoraConfig(rank=4, alpha=8),
        data=(SourceConfig(path="shared.jsonl"), SourceConfig(path=f"{name}.jsonl")),
        output_dir=str(run),
    )
    (run / "config.yaml").write_text(dump(config), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRA runs of different rank and scale."""
    folder = tmp_path_factory.mktemp("plain")
    write_run(folder, "one", 11, lora=PLAIN)
    write_run(folder, "two", 12, lora={"r": 2, "lora_alpha": 3, "use_rslora": True})
    return folder


def vectors(folder: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    return Encoder.load(ModelConfig(name_or_path=str(folder), device="cpu")).encode(TEXTS, progress=False)


def folded(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight with its adapter in it, in float64."""
    artifact = find(ModelConfig(name_or_path=str(folder), device="cpu"))
    assert artifact is not None
    state = load_folded(str(folder), artifact).embedder.backbone.state_dict()
    return {name: tensor.double() for name, tensor in state.items()}


def merge(folder: Path, name: str, *options: str) -> Path:
    runs = [str(folder / "one"), str(folder / "two")]
    assert main(["merge", *runs, "--output", str(folder / name), *options]) == 0
    return folder / name


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.allclose(found[name], expected[name], atol=2e-6, rtol=0) for name in found)


def test_an_average_of_adapters_is_the_average_of_what_they_change(plain: Path) -> None:
    merged = merge(plain, "average", "--weights", "3", "1")
    one, two = folded(plain / "one"), folded(plain / "two")
    assert close(folded(merged), {name: 0.75 * one[name] + 0.25 * two[name] for name in one})
    assert not close(folded(merged), {name: 0.5 * one[name] + 0.5 * two[name] for name in one})
    backbone = Encoder.load(ModelConfig(name_or_path=str(merged), device="cpu")).embedder.backbone
    assert isinstance(backbone, PeftModel) and backbone.peft_config["default"].r == 6
    config = load(TrainConfig, merged / "config.yaml", [])
    assert [Path(source.path).stem for source in config.data] == ["shared", "one", "two"]
    assert (config.lora.rank, config.lora.alpha, config.output_dir) == (6, 6.0, str(merged))


def test_all_the_weight_on_one_run_gives_that_run(plain: Path) -> None:
    merged = merge(plain, "first", "--weights", "1", "0")
    np.testing.assert_allclose(vectors(merged), vectors(plain / "one"), atol=1e-6)
    assert np.abs(vectors(merged) - vectors(plain / "two")).max() > 1e-2
    second = merge(plain, "second", "--weights", "0", "1", "--method", "slerp")
    np.testing.assert_allclose(vectors(second), vectors(plain / "two"), atol=1e-6)


def test_the_arc_of_low_rank_changes_is_that_of_dense_ones(plain: Path) -> None:
    merged = folded(merge(plain, "arc", "--method", "slerp", "--weights", "0.7", "0.3"))
    runs = [str(plain / "one"), str(plain / "two")]
    artifacts = [artifact for run in runs if (artifact := find(ModelConfig(name_or_path=run, device="cpu")))]
    dense = slerp_whole(artifacts, runs, 0.3).embedder.backbone.state_dict()
    assert close(merged, {name: tensor.double() for name, tensor in dense.items()})


def test_a_rank_and_its_error(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact, cut = folded(merge(plain, "exact")), folded(merge(plain, "cut", "--rank", "4"))
    record = json.loads((plain / "cut" / "merge.json").read_text(encoding="utf-8"))
    base = Encoder.load(
        ModelConfig(name_or_path=str(plain / "base"), device="cpu", max_length=64)
    ).embedder.backbone.state_dict()
    lost = sum(float(((cut[name] - exact[name]) ** 2).sum()) for name in exact)
    whole = sum(float(((exact[name] - base[name].double()) ** 2).sum()) for name in exact)
    assert record["relative_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert 0 < record["relative_error"] < 1 and record["rank"] == 4
    assert "relative error" in capsys.readouterr().out


def test_a_merged_run_is_exported_and_says_what_it_is(plain: Path) -> None:
    merged = merge(plain, "exported")
    export_command(ExportArgs(run=merged, merge=True))
    card = (merged / "model" / "README.md").read_text(encoding="utf-8")
    assert "Merged (average) from `one` (0.5), `two` (0.5)" in card and str(plain) not in card
    np.testing.assert_allclose(vectors(merged / "model"), vectors(merged / "adapter"), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [({"full": True}, {"full": True}), ({"lora": {"use_dora": True}}, {"lora": {"init_lora_weights": "pissa"}})],
    ids=["full", "dora-pissa"],
)
def test_whole_weights_where_no_low_rank_sum_will_do(tmp_path: Path, options: tuple[Any, Any]) -> None:
    runs = [
        write_run(tmp_path, name, seed, **own) for name, seed, own in zip(("one", "two"), (3, 4), options, strict=True)
    ]
    merged = merge(tmp_path, "merged", "--weights", "0.25", "0.75")
    one, two = map(folded, runs)
    assert close(folded(merged), {name: 0.25 * one[name] + 0.75 * two[name] for name in one})
    assert not (merged / "adapter").exists()
    assert load(TrainConfig, merged / "config.yaml", []).lora == load(TrainConfig, runs[0] / "config.yaml", []).lora
    first = merge(tmp_path, "first", "--weights", "1", "0")
    np.testing.assert_allclose(vectors(first), vectors(runs[0]), atol=1e-5)


def test_mistakes_are_one_line_and_write_nothing(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(plain, "other", 13, lora=PLAIN, pooling="mean")
    both_ways = write_run(plain, "both-ways", 14, lora=PLAIN, bidirectional=True)
    cut = write_run(plain, "cut-off", 15, lora=PLAIN, depth=2)
    (plain / "full-folder").mkdir()
    (plain / "full-folder" / "mine.txt").write_text("x", encoding="utf-8")
    one, two = str(plain / "one"), str(plain / "two")
    for arguments, words in (
        ([one], "at least two runs"),
        ([one, one], "given twice"),
        ([one, two, "--weights", "1"], "1 weights for 2 runs"),
        ([one, two, "--weights", "0", "0"], "all weights are 0"),
        ([one, two, str(other), "--method", "slerp"], "slerp needs two runs"),
        ([one, str(other)], "model.pooling is mean"),
        ([one, str(both_ways)], f"model.bidirectional is True, but that of {one} is False"),
        ([one, str(cut)], f"model.depth is 2, but that of {one} is None"),
        ([one, str(plain / "base")], "not a run folder"),
        ([one, two, "--output", str(plain / "full-folder")], "is not a merged run"),
        ([one, two, "--output", one], "overlaps with one of the runs"),
    ):
        assert (
            main(["merge", *arguments, *([] if "--output" in arguments else ["--output", str(plain / "never")])]) == 2
        )
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert not (plain / "never").exists()


def test_low_rank_algebra_against_dense_matrices() -> None:
    generator = torch.Generator().manual_seed(0)

    def change(rank: int) -> LowRank:
        a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((rank, 9), (7, rank)))
        return LowRank(a, b)

    one, two = change(3), change(2)
    dense = [change.b @ change.a for change in (one, two)]
    assert inner(one, two) == pytest.approx(float((dense[0] * dense[1]).sum()))
    total = weighted_sum([one, two], [0.3, -2.0])
    torch.testing.assert_close(total.b @ total.a, 0.3 * dense[0] - 2 * dense[1])
    cut, lost = truncate(total, 2)
    u, sizes, vh = np.linalg.svd((0.3 * dense[0] - 2 * dense[1]).numpy())
    np.testing.assert_allclose((cut.b @ cut.a).numpy(), u[:, :2] * sizes[:2] @ vh[:2], atol=1e-10)
    wide, lost_by_none = truncate(total, 8)
    assert (wide.a.shape, wide.b.shape, lost_by_none) == ((8, 9), (7, 8), 0.0)
    torch.testing.assert_close(wide.b @ wide.a, total.b @ total.a)
    assert lost == pytest.approx(float((sizes[2:] ** 2).sum()))


def test_the_arc_against_scipy() -> None:
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=(2, 5))
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    for share in (0.0, 0.2, 0.5, 1.0):
        left, right = slerp_weights(1.0, 1.0, float(one @ two), share)
        np.testing.assert_allclose(left * one + right * two, geometric_slerp(one, two, share), atol=1e-12)
    assert slerp_weights(4.0, 4.0, 4.0, 0.25) == (0.75, 0.25)
    assert slerp_weights(0.0, 4.0, 0.0, 0.25) == (0.75, 0.25)
