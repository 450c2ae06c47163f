"""Former names of options: refused where a user writes them, translated in the folder of an earlier run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dec2vec.cli import main
from dec2vec.config.load import config_hash, dump, load
from dec2vec.config.overrides import options
from dec2vec.config.renames import REMOVED, RENAMED, RENAMED_VALUES, former, translated
from dec2vec.errors import UserError
from eval.config import EvalConfig
from eval.systems.recipes import read_recipe
from tests.export_cases import PEFT_WARNING
from tests.processes import run_alone
from tests.tiny_run import STEPS, fingerprint, metrics_of, steps_of, write_run
from tests.tiny_run import train as train_run
from train.config import RESUMABLE_CHANGES, BatchConfig, LoraConfig, TrainConfig
from train.mining.mine import MineArgs
from train.sweep.grid import parse_axis, plan

CONFIGS = (TrainConfig, EvalConfig, MineArgs)


def owner(option: str) -> type:
    """The configuration that has `option`, or an option of its section."""
    section = option.rpartition(".")[0]
    return next(
        cls for cls in CONFIGS if any(name == option or name.startswith(f"{section}.") for name in options(cls))
    )


def nested(name: str, value: object) -> object:
    """The YAML that gives one option a value."""
    for key in reversed(name.split(".")):
        value = [value] if key == "0" else {key: value}
    return value


def complaints(cls: type, name: str, value: str, folder: Path) -> list[str]:
    """What is said of an option on the command line, and in a file."""
    name = name.replace(".N", ".0")
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(nested(name, value)))
    said = []
    for path, arguments in ((None, [f"--{name}", value]), (file, [])):
        with pytest.raises(UserError) as refused:
            load(cls, path, arguments)
        said.append(str(refused.value))
    return said


@pytest.mark.parametrize(("name", "present"), RENAMED.items())
def test_a_former_name_is_refused_with_the_present_one(tmp_path: Path, name: str, present: str) -> None:
    typed, written = complaints(owner(present), name, "1", tmp_path)
    assert typed == f"config error: --{name}: is now called {present}"
    assert f"{name}: is now called {present}" in written and "\n" not in written


@pytest.mark.parametrize(
    ("option", "value", "present"),
    [(name, *pair) for name, values in RENAMED_VALUES.items() for pair in values.items()],
)
def test_a_former_value_is_refused_with_the_present_one(tmp_path: Path, option: str, value: str, present: str) -> None:
    for said in complaints(TrainConfig, option, value, tmp_path):
        assert said == f"config error: {option}: the value {value} is now called {present}"


@pytest.mark.parametrize(("name", "why"), REMOVED.items())
def test_a_removed_option_is_refused_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    for said in complaints(TrainConfig, name, "true", tmp_path):
        assert said.endswith(f"{name.replace('.N', '.0')}: is no longer an option; {why}") and "\n" not in said


@pytest.mark.parametrize("typed", ["lora.no_fast", "lora.no-fast"])
def test_a_former_switch_is_refused_when_it_is_turned_off(typed: str) -> None:
    with pytest.raises(UserError, match=r"is now called lora\.fused"):
        load(TrainConfig, None, [f"--{typed}"])


def test_a_former_name_in_a_grid_is_refused() -> None:
    with pytest.raises(UserError, match=r"--grid lora\.fast: is now called lora\.fused"):
        parse_axis("lora.fast=true,false")


def test_a_name_that_never_was_gets_no_such_message() -> None:
    for cls, name in ((TrainConfig, "fit_sentences"), (EvalConfig, "lora.whole"), (EvalConfig, "batch.prefetch")):
        with pytest.raises(UserError, match="unknown option"):
            load(cls, None, [f"--{name}", "1"])


CHANGED = """
--model.name_or_path base --model.layer -2 --lora.modules_to_save embed_tokens --lora.fused false
--data.0.path a.jsonl --data.0.losses.0.kind infonce --data.0.losses.0.margin 0.1
--data.1.path b.jsonl --data.1.kind graded --data.1.losses.0.kind angle
--mining.every 10 --mining.min_rank 3 --mining.max_rank 50 --batch.sources single --optim.lr 1e-4
--checkpoint.resume fresh --distributed.compare_every 7 --eval.whitening_sentences 99 --seed 5
"""


@pytest.mark.parametrize(
    ("changed", "golden"),
    [
        ("", "1414a1bb066bc4c0c81a406dc9f944ef1a693deb11c05daa170c1fc500d8e2c9"),
        (CHANGED, "b39e0dba650192e08f1fdb6e3356db945d502d412448c04fba0f29fd5f2b6df4"),
    ],
    ids=["defaults", "changed"],
)
def test_a_checkpoint_of_version_a1237ce_belongs_to_the_same_configuration(changed: str, golden: str) -> None:
    """Computed by `config_hash(load(TrainConfig, None, ...), exclude=RESUMABLE_CHANGES)` of commit a1237ce.

    There the changed options have their former names: lora.whole, lora.fast, mining.from_rank, batch.sources one ...
    """
    config = load(TrainConfig, None, changed.split())
    assert config_hash(config, exclude=RESUMABLE_CHANGES) == golden


def test_a_report_of_version_a1237ce_has_the_same_hash() -> None:
    """Computed by `config_hash` of commit a1237ce, where the last option is --fit_sentences.

    That version measured no baseline unless one was named, which is an empty list now.
    """
    typed = "--model.name_or_path base --dev dev.csv --tests a.csv --whitening_sentences 77 --baselines"
    golden = "47e9d1f716c2574dd2f13c81f666b6a461c1fc3391bd7598eb9dfecc2d239207"
    assert config_hash(load(EvalConfig, None, typed.split())) == golden


def former_dump(config: TrainConfig) -> str:
    """`config.yaml` as version a1237ce wrote it, every option included."""
    tree: dict[str, Any] = json.loads(json.dumps(former(dataclasses.asdict(config))))
    entity, _, project = config.tracking.project.rpartition("/")
    tree["tracking"] |= {"project": project, "entity": entity or None, "name": None}
    tree["batch"]["cache_tokens"] = "auto"
    return yaml.safe_dump(tree, sort_keys=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose `config.yaml` an earlier version might have written."""
    folder = tmp_path_factory.mktemp("former")
    lora = LoraConfig(rank=4, alpha=8.0, modules_to_save=("embed_tokens",), fused=False)
    batch = BatchConfig(size=8, chunk_tokens=64, graph_tokens=128, sources="single")
    config = write_run(folder, lora=lora, batch=batch)
    run_alone(in_folder, config)
    resolved = load(TrainConfig, folder / "out" / "config.yaml", [])
    text = former_dump(resolved)
    for name in ("whole:", "fast:", "sources: one", "tiles:", "gather:", "prefetch:", "fit_sentences:", "check_every:"):
        assert name in text
    (folder / "present.yaml").write_text(dump(resolved), encoding="utf-8")
    (folder / "out" / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "out"


def in_folder(config: Path) -> None:
    os.chdir(config.parent)
    train_run(config, config.parent / "out")


def again(config: Path, output: Path) -> None:
    train_run(config, output)


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def test_the_names_in_a_run_folder_are_translated(run: Path, tmp_path: Path) -> None:
    present = load(TrainConfig, run.parent / "present.yaml", [])
    assert load(TrainConfig, run / "config.yaml", []) == present
    shutil.copy(run / "config.yaml", tmp_path)  # no run folder: a user's own file
    with pytest.raises(UserError, match=r"lora\.whole: is now called lora\.modules_to_save"):
        load(TrainConfig, tmp_path / "config.yaml", [])


def test_a_team_becomes_a_part_of_the_project() -> None:
    tracking = {"project": "vectors", "entity": "team", "name": "mine"}
    assert translated({"tracking": tracking}) == {"tracking": {"project": "team/vectors"}}
    assert translated({"tracking": {**tracking, "entity": None}}) == {"tracking": {"project": "vectors"}}


def test_train_resumes_an_earlier_run(run: Path, tmp_path: Path) -> None:
    output = copied(run, tmp_path)
    shutil.rmtree(output / "checkpoints" / f"step-{STEPS:06d}")
    run_alone(again, output / "config.yaml", output)
    assert steps_of(output) == list(range(1, STEPS + 1))
    assert metrics_of(output) == metrics_of(run) and fingerprint(output) == fingerprint(run)
    assert "modules_to_save" in (output / "config.yaml").read_text()


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_export_and_merge_read_an_earlier_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0, capsys.readouterr().err
    assert (tmp_path / "exported" / "modules.json").is_file()
    other = copied(run, tmp_path)
    assert main(["merge", str(run), str(other), "--output", str(tmp_path / "merged")]) == 0, capsys.readouterr().err
    assert load(TrainConfig, tmp_path / "merged" / "config.yaml", []).batch.sources == "single"


def test_an_evaluation_takes_runs_of_both_versions_as_seeds_of_one_recipe(run: Path, tmp_path: Path) -> None:
    output = copied(run, tmp_path)
    shutil.copy(run.parent / "present.yaml", output / "config.yaml")
    assert read_recipe(str(run)) == read_recipe(str(output))
    assert read_recipe(str(run / "adapter")) == read_recipe(str(run))


def test_a_sweep_starts_from_the_configuration_of_an_earlier_run(run: Path) -> None:
    planned = plan(run / "config.yaml", ("lora.fused=true,false",), (), [])
    assert [run.name for run in planned] == ["fused-true", "fused-false"]
