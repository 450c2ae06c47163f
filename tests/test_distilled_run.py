"""Whole runs with regression on a teacher: stopped, on several ranks, exported, merged; projection kept or dropped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from dec2vec import Encoder, ModelConfig
from dec2vec.checks.check_model import check_model
from dec2vec.checks.finding import failed
from dec2vec.cli import main
from dec2vec.config.load import load
from dec2vec.decoder.model_digest import model_digest
from dec2vec.decoder.start import find_adapter
from dec2vec.errors import UserError
from dec2vec.identity import identify
from tests.export_cases import PEFT_WARNING
from tests.helpers import WORDS, graded_pairs, write_jsonl
from tests.processes import run_alone, run_ranks
from tests.test_engines import FSDP2
from tests.test_resume import in_folder, same_but_for_checkpoints, signalled
from tests.test_teacher import bag_of_words
from tests.test_whole_run_on_ranks import adapter_of, same_run
from tests.tiny_run import STEPS, metrics_of, write_run
from tests.training_setup import distance
from train.__main__ import train
from train.config import CheckpointConfig, EvalSection, ExportConfig, LoraConfig, TrainConfig
from train.merging.merged_run import read_runs
from train.options.data import SourceConfig
from train.options.losses import LossConfig
from train.state import Listeners

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["red dog", "a small cat", "", "the old man sings to a horse"]
MODES = ("drop", "keep")


def write_distilled(folder: Path, mode: str, **sections: Any) -> Path:
    folder.mkdir()
    teacher = bag_of_words(folder / "teacher")
    info_nce = LossConfig(learn_temperature=True)
    regression = LossConfig(kind="embed_distill", teacher=teacher, projection=mode, weight=3.0)  # type: ignore[arg-type]
    source = SourceConfig(path="pairs.jsonl", losses=(info_nce, regression))
    options: dict[str, Any] = {"lora": LoraConfig(rank=4, alpha=8.0), "checkpoint": CheckpointConfig(every=3, keep=2)}
    return write_run(folder, data=(source,), loss=LossConfig(), **options | sections)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By mode the folder of an undisturbed run."""
    root, found = tmp_path_factory.mktemp("distilled"), {}
    for mode in MODES:
        config = write_distilled(root / mode, mode)
        run_alone(in_folder, config, config.parent / "whole")
        found[mode] = config.parent / "whole"
    return found


def config_of(run: Path) -> Path:
    return run.parent / "run.yaml"


def projection_of(run: Path, mode: str) -> torch.Tensor:
    tensors = load_file(run / "checkpoints" / f"step-{STEPS:06d}" / "adapter.safetensors")
    (name,) = (name for name in tensors if name == "projection" or name.startswith("head."))
    assert (name == "projection") == (mode == "drop")
    return tensors[name]


@pytest.mark.parametrize("mode", MODES)
def test_both_losses_fall_and_the_projection_is_trained(runs: dict[str, Path], mode: str) -> None:
    lines = [line for line in metrics_of(runs[mode]) if "loss" in line]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_infonce"] + 3 * line["loss_embed_distill"], rel=1e-5)
    assert lines[-1]["loss_embed_distill"] < 0.95 * lines[0]["loss_embed_distill"]
    assert projection_of(runs[mode], mode).shape[0] == len(WORDS)


@pytest.mark.parametrize("mode", ["drop", pytest.param("keep", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(runs: dict[str, Path], tmp_path: Path, mode: str) -> None:
    run_alone(signalled, config_of(runs[mode]), tmp_path, signal.SIGTERM, 4)
    run_alone(in_folder, config_of(runs[mode]), tmp_path)
    same_but_for_checkpoints(tmp_path, runs[mode])


def sharded(config: Path, output: Path) -> None:
    os.environ.update(FSDP2)
    in_folder(config, output)


@pytest.mark.parametrize(
    ("mode", "engine"),
    [
        ("drop", in_folder),
        ("keep", in_folder),
        ("drop", sharded),
        ("keep", sharded),
    ],
)
@pytest.mark.slow
def test_two_ranks_equal_one_process(runs: dict[str, Path], tmp_path: Path, mode: str, engine: Any) -> None:
    run_ranks(2, engine, config_of(runs[mode]), tmp_path)
    same_run(tmp_path, runs[mode])
    assert distance(adapter_of(tmp_path), adapter_of(runs[mode])) < 1e-3
    found, expected = projection_of(tmp_path, mode), projection_of(runs[mode], mode)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_dropped_projection_is_no_part_of_the_export(runs: dict[str, Path]) -> None:
    run = runs["drop"]
    assert not (run / "model" / "head.safetensors").exists()
    assert Encoder.load(ModelConfig(name_or_path=str(run))).encode(TEXTS).shape[1] != len(WORDS)


def test_a_kept_projection_is_a_dense_layer_of_every_form(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["keep"]
    encoder = Encoder.load(ModelConfig(name_or_path=str(run), device="cpu"))
    found = encoder.encode(TEXTS)
    assert found.shape[1] == encoder.dimension == len(WORDS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    main(["export", str(run), "--to", str(tmp_path / "merged"), "--merge", "true"])
    for folder in (run / "model", tmp_path / "merged"):
        library = SentenceTransformer(str(folder), device="cpu")
        assert [type(module).__name__ for module in library] == ["Transformer", "Pooling", "Dense", "Normalize"]
        np.testing.assert_allclose(library.encode(TEXTS), found, atol=1e-5)
        np.testing.assert_allclose(Encoder.load(ModelConfig(name_or_path=str(folder))).encode(TEXTS), found, atol=1e-5)
        assert not failed(check_model(ModelConfig(name_or_path=str(folder), device="cpu")))
    narrow = replace(encoder.view, dense=False)
    bare = encoder.encode_views(TEXTS, [encoder.view, narrow])
    matrix = load_file(run / "model" / "head.safetensors")["0.weight"].numpy()
    np.testing.assert_allclose(bare[encoder.view], bare[narrow] @ matrix.T, atol=1e-5)
    assert encoder.encode(TEXTS, prompt="prompteol").shape[1] == len(WORDS)
    other = Encoder.load(ModelConfig(name_or_path=str(run)), {"pooling": "mean"})  # not what it was trained on
    assert other.encode(TEXTS).shape[1] == bare[narrow].shape[1]


def test_a_kept_projection_is_part_of_what_a_folder_is(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs["keep"] / "adapter", tmp_path / "adapter"))
    assert identify(str(copy)) == identify(str(runs["keep"])) is not None
    first = identify(str(copy)), model_digest(str(copy))
    content = bytearray((copy / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "head.safetensors").write_bytes(bytes(content))
    assert identify(str(copy)) != first[0] and model_digest(str(copy)) != first[1]


@pytest.mark.slow
def test_merged_runs_have_the_average_projection(runs: dict[str, Path], tmp_path: Path) -> None:
    run_alone(in_folder, config_of(runs["keep"]), tmp_path / "other", "--seed", "1")
    merged = str(tmp_path / "merged")
    main(["merge", str(runs["keep"]), str(tmp_path / "other"), "--output", merged, "--weights", "0.25", "0.75"])
    heads = [load_file(run / "adapter" / "head.safetensors")["0.weight"] for run in (runs["keep"], tmp_path / "other")]
    found = load_file(Path(merged) / "adapter" / "head.safetensors")["0.weight"]
    torch.testing.assert_close(found, 0.25 * heads[0] + 0.75 * heads[1])
    assert Encoder.load(ModelConfig(name_or_path=merged)).encode(TEXTS).shape[1] == len(WORDS)
    marker = tmp_path / "other" / "adapter" / "dec2vec.json"
    content = json.loads(marker.read_text(encoding="utf-8"))
    del content["head"]
    marker.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"other: its projection \(loss.projection keep\) has another form"):
        read_runs([runs["keep"], tmp_path / "other"])


@pytest.mark.slow
def test_whitening_comes_behind_a_kept_projection(tmp_path: Path) -> None:
    """Also in the report, whose row of the run is what plain sentence-transformers computes from the export."""
    evaluation = EvalSection(dev="dev.jsonl", tests=("test.jsonl",), every=4, whitening_sentences=20)
    config = write_distilled(tmp_path / "run", "keep", eval=evaluation, export=ExportConfig(whiten=True))
    pairs = graded_pairs(40, seed=2)
    write_jsonl(tmp_path / "run" / "test.jsonl", pairs)
    run_alone(in_folder, config, tmp_path / "out")
    library = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    assert [type(module).__name__ for module in library][2:] == ["Dense", "Dense", "Normalize"]
    found = Encoder.load(ModelConfig(name_or_path=str(tmp_path / "out"))).encode(TEXTS)
    np.testing.assert_allclose(library.encode(TEXTS), found, atol=1e-4)
    sides = [library.encode([str(pair[side]) for pair in pairs]) for side in ("sentence1", "sentence2")]
    expected = spearmanr((sides[0] * sides[1]).sum(1), [pair["score"] for pair in pairs]).statistic
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    values = [row["value"] for row in report["results"] if row["kind"] == "system" and row["run"] == "out"]
    assert any(value == pytest.approx(expected, abs=1e-3) for value in values), (values, expected)


@pytest.mark.slow
def test_a_run_from_a_model_with_a_kept_projection_keeps_it(runs: dict[str, Path], tmp_path: Path) -> None:
    main(["export", str(runs["keep"]), "--to", str(tmp_path / "base"), "--merge", "true"])
    config = write_run(tmp_path / "next", model=ModelConfig(name_or_path=str(tmp_path / "base"), device="cpu"))
    run_alone(in_folder, config, tmp_path / "out")
    heads = [
        load_file(folder / "head.safetensors")["0.weight"] for folder in (tmp_path / "base", tmp_path / "out/model")
    ]
    assert torch.equal(*heads)
    vectors = [Encoder.load(ModelConfig(name_or_path=str(tmp_path / name))).encode(TEXTS) for name in ("base", "out")]
    assert vectors[0].shape == vectors[1].shape and np.abs(vectors[0] - vectors[1]).max() > 1e-4


@pytest.mark.slow
def test_a_second_round_from_the_adapter_has_its_projection(runs: dict[str, Path], tmp_path: Path) -> None:
    """Fixed by a run without a teacher, and trained on by one that keeps a projection to as many dimensions."""
    model = ModelConfig(adapter=str(runs["keep"]), device="cpu", autocast="off")
    first = Encoder.load(ModelConfig(name_or_path=str(runs["keep"]), device="cpu"))
    start = Encoder.load(model)
    assert start.view == first.view and start.view.dense
    np.testing.assert_allclose(start.encode(TEXTS), first.encode(TEXTS), atol=1e-6)
    configs = [write_run(tmp_path / "plain", model=model, lora=LoraConfig())]
    configs.append(write_distilled(tmp_path / "again", "keep", model=model, lora=LoraConfig()))
    matrix = load_file(runs["keep"] / "adapter" / "head.safetensors")
    for config, is_fixed in zip(configs, (True, False), strict=True):
        output = config.parent / "out"
        run_alone(second_round, config, output)
        head = load_file(output / "adapter" / "head.safetensors")
        assert head.keys() == matrix.keys()
        assert torch.equal(head["0.weight"], matrix["0.weight"]) == is_fixed
        found = Encoder.load(ModelConfig(name_or_path=str(output), device="cpu")).encode(TEXTS)
        np.testing.assert_allclose(
            SentenceTransformer(str(output / "model"), device="cpu").encode(TEXTS), found, atol=1e-5
        )
        assert np.abs(found - first.encode(TEXTS)).max() > 1e-4
    copy = Path(shutil.copytree(runs["keep"] / "adapter", tmp_path / "adapter"))
    digest = digest_of(copy)
    content = bytearray((copy / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "head.safetensors").write_bytes(bytes(content))
    assert digest_of(copy) != digest


def digest_of(folder: Path) -> str:
    adapter = find_adapter(ModelConfig(adapter=str(folder)))
    assert adapter is not None
    return adapter.digest


def second_round(config: Path, output: Path) -> None:
    """With the figures that a listener gets, which are those of metrics.jsonl."""
    told: list[Mapping[str, float]] = []
    with contextlib.chdir(config.parent):
        train(
            replace(load(TrainConfig, config, []), output_dir=str(output)),
            Listeners(on_step=lambda _, found: told.append(found)),
        )
    written = [line for line in metrics_of(output) if "loss" in line]
    assert [line["loss"] for line in told] == [line["loss"] for line in written]
    parts = [{name: line[name] for name in line if name.startswith("loss")} for line in told]
    assert parts == [{name: line[name] for name in line if name.startswith("loss")} for line in written]


@pytest.mark.parametrize(("mode", "message"), [("none", "dimensions and the teacher's")])
def test_vectors_of_another_length_need_a_projection(tmp_path: Path, mode: str, message: str) -> None:
    config = write_distilled(tmp_path / "run", mode)
    run_alone(refused, config, tmp_path / "out", message)


def refused(config: Path, output: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        in_folder(config, output)
