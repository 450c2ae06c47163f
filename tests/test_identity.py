"""A tuned encoder is known by its content: where it lies and in which form changes nothing, what it computes does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dec2vec import ModelConfig
from dec2vec.config.load import dump
from dec2vec.identity import _pieces, identify
from eval.results.tuned_runs import chosen_on, describe_tuned
from eval.tasks.sts import GradedPairs, SimilarityData, StsTask
from tests.export_cases import BASE, PEFT_WARNING, tuned_encoder, whiten
from tests.helpers import graded_pairs, write_jsonl
from train.config import EvalSection, LoraConfig, TrainConfig
from train.export.export import ExportArgs, export_command
from train.export.merge_record import record_text
from train.export.save import save_adapter

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)

FORMS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"lora": {"use_dora": True}},
    "scaled": {"lora": {"rank_pattern": {"q_proj": 2}, "use_rslora": True}},
    "read otherwise": {"prompt": "instruct", "pooling": "weighted_mean", "layer": 2},
    "full": {"full": True},
}


def finished(root: Path, *, whitened: bool = False, **form: Any) -> Path:
    """A run folder as training leaves it."""
    encoder = tuned_encoder(root / "base", **form)
    if whitened:
        whiten(encoder)
    save_adapter(encoder, root / "run" / "adapter")
    method = LoraConfig(method="full") if form.get("full") else LoraConfig()
    config = TrainConfig(model=encoder.config, lora=method)
    (root / "run" / "config.yaml").write_text(dump(config), encoding="utf-8")
    return root / "run"


@pytest.mark.parametrize("form", FORMS)
def test_every_export_has_the_identity_of_its_run(tmp_path: Path, form: str) -> None:
    run = finished(tmp_path, **FORMS[form])
    found = identify(str(run))
    assert found is not None and found.whitening is None
    kept = export_command(ExportArgs(run=run, to=tmp_path / "kept"))
    merged = export_command(ExportArgs(run=run, to=tmp_path / "merged", merge=True))
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "other name")
    for folder in (kept, merged, moved, run / ("model" if form == "full" else "adapter")):
        assert identify(str(folder)) == found, folder.name


def test_a_whitened_run(tmp_path: Path) -> None:
    plain, whitened = identify(str(finished(tmp_path / "a"))), identify(str(finished(tmp_path / "b", whitened=True)))
    assert plain is not None and whitened is not None
    assert plain.weights == whitened.weights and plain.whitening is None and whitened.whitening is not None
    exported = export_command(ExportArgs(run=tmp_path / "b" / "run", merge=True))
    assert identify(str(exported)) == whitened


def change_weights(run: Path) -> None:
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)].view(-1)[3] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})


def change_scale(run: Path) -> None:
    change_json(run / "adapter" / "adapter_config.json", lambda tree: tree.update(lora_alpha=9))


def change_reading(run: Path) -> None:
    change_json(run / "adapter" / "dec2vec.json", lambda tree: tree["model"].update(pooling="mean"))


def change_json(file: Path, change: Any) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


@pytest.mark.parametrize("change", [change_weights, change_scale, change_reading])
def test_what_changes_vectors_changes_the_identity(tmp_path: Path, change: Any) -> None:
    run = finished(tmp_path)
    before = identify(str(run))
    change(run)
    after = identify(str(run))
    assert before is not None and after is not None and before != after


def test_precision_in_the_file_and_its_place_change_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path)
    file = run / "adapter" / "adapter_model.safetensors"
    half = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    before = identify(str(run))
    save_file({name: tensor.float() for name, tensor in reversed(half.items())}, file, metadata={"format": "pt"})
    assert identify(str(run)) == before is not None


def test_whole_models_are_sampled_from_end_to_end() -> None:
    values = torch.arange(1_000_000, dtype=torch.float32)
    found = _pieces(values)
    assert len(found) == 16 * 4096 and found[0] == 0 and found[-1] == 999_999
    steps = found.reshape(16, -1)
    assert (steps[:, -1] - steps[:, 0] == 4095).all() and (steps[1:, 0] > steps[:-1, -1]).all()
    assert torch.equal(_pieces(values[:100]), values[:100])


def test_no_tuned_encoder_has_no_identity(tmp_path: Path) -> None:
    tuned_encoder(tmp_path / "base")
    run = finished(tmp_path)
    for name in (tmp_path / "base", tmp_path / "gone"):
        assert identify(str(name)) is None
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
    assert identify(str(run)) is None
    assert describe_tuned([str(run), str(tmp_path / "base")], []) == {}


# what chose the checkpoint


def task(name: str, rows: list[dict[str, Any]]) -> StsTask:
    left, right = ([str(row[key]) for row in rows] for key in ("sentence1", "sentence2"))
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    data = SimilarityData(name, left, right, scores, [""] * len(rows))
    pairs = GradedPairs.from_data(data)
    return StsTask(name, "spearman_all", pairs, pairs)


def test_a_test_that_is_the_runs_dev_file_under_any_name(tmp_path: Path) -> None:
    rows = graded_pairs(16)
    dev = write_jsonl(tmp_path / "dev.jsonl", rows)
    run = finished(tmp_path)
    (run / "config.yaml").write_text(dump(TrainConfig(model=ModelConfig(), eval=EvalSection(dev=str(dev)))))
    others = [{**row, "sentence1": row["sentence1"] + " then"} for row in rows]
    swapped = [{**row, "sentence1": row["sentence2"], "sentence2": row["sentence1"]} for row in reversed(rows)]
    tasks = [task("copy", rows), task("turned", swapped), task("part", rows[:5]), task("dev", others)]
    tasks.append(task("some of it", [*others, *rows[:5]]))
    assert chosen_on(str(run), tasks) == ["copy", "turned", "part"]
    assert describe_tuned([str(run / "adapter")], tasks)["run"]["chosen_on"] == ["copy", "turned", "part"]
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.yaml").write_text(dump(TrainConfig(model=BASE)))
    (merged / "merge.json").write_text(record_text([run], [1.0], "average", {}))
    assert chosen_on(str(merged), tasks) == ["copy", "turned", "part"], "what chose a parent chose the merged run too"
    dev.unlink()
    assert chosen_on(str(run), tasks) == ["dev"], "its pairs are not known any more: by its name"
    (run / "config.yaml").write_text(dump(TrainConfig(model=BASE)))
    assert chosen_on(str(run), tasks) == []
