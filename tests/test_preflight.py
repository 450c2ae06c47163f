"""What the configuration alone shows to be impossible is refused before a file is read or a model is loaded."""

from __future__ import annotations

import os
import unittest.mock
from pathlib import Path
from typing import Any

import pytest

import train.build
import train.export.push
from dec2vec import ModelConfig
from dec2vec.errors import UserError
from tests.helpers import tiny_model_folder
from tests.processes import run_alone
from tests.tiny_run import train as train_run
from tests.tiny_run import write_run
from train.checkpointing.run_folder import RunFolder
from train.config import BatchConfig, EvalSection, ExportConfig, LoraConfig, TrainConfig
from train.distributed.ddp import Ddp
from train.distributed.fsdp2 import Fsdp2
from train.distributed.interface import Engine
from train.distributed.zero3 import Zero3
from train.options.data import MiningConfig, SourceConfig
from train.options.losses import LossConfig
from train.preflight import check_config, check_folder

PAIRS = SourceConfig(path="none.jsonl")
TEXTS = SourceConfig(path="none.jsonl", kind="texts")
GRADED = SourceConfig(path="none.jsonl", kind="graded", losses=(LossConfig(kind="cosent"),))
LABELLED = SourceConfig(path="none.jsonl", kind="labelled", losses=(LossConfig(kind="supcon"),))


def changed(source: SourceConfig, **options: Any) -> SourceConfig:
    return SourceConfig(**{**vars(source), **options})


def config_of(*sources: SourceConfig, **sections: Any) -> TrainConfig:
    return TrainConfig(data=sources or (PAIRS,), **{"model": ModelConfig(name_or_path="nobody/nothing"), **sections})


CASES: dict[str, tuple[TrainConfig, str]] = {
    "no data": (TrainConfig(), "no training pairs are given; give a file with data.0.path"),
    "a source without a path": (config_of(PAIRS, SourceConfig()), "a source has no path"),
    "negatives without pairs": (
        config_of(changed(LABELLED, negatives=("x",))),
        "data.0.negatives is only for pairs, but data.0.kind is labelled; remove it",
    ),
    "a prompt of documents without pairs": (
        config_of(changed(GRADED, document_prompt="bare")),
        "data.0.document_prompt is only for pairs, but data.0.kind is graded; remove it",
    ),
    "a prompt of a source that is none": (
        config_of(changed(PAIRS, document_prompt="promteol")),
        "prompt 'promteol': unknown",
    ),
    "a loss that does not fit": (config_of(TEXTS, loss=LossConfig(kind="cosent")), "needs pairs with a score"),
    "kinds that share no batch": (
        config_of(PAIRS, TEXTS),
        "data.1.kind differs from that of data.0, so a batch cannot contain both",
    ),
    "losses that share no batch": (
        config_of(PAIRS, changed(PAIRS, losses=(LossConfig(weight=2.0),))),
        "data.1.losses differs from that of data.0, so a batch cannot contain both; add batch.sources single",
    ),
    "a weight in mixed batches": (
        config_of(PAIRS, changed(PAIRS, weight=2.0)),
        "data.1.weight is only used for batches of a single source; add batch.sources single",
    ),
    "labels and no duplicates": (
        config_of(PAIRS, LABELLED, batch=BatchConfig(sources="single", no_duplicates=True)),
        "batch.no_duplicates: data.1 is labelled",
    ),
    "logits": (
        config_of(model=ModelConfig(name_or_path="x", pooling="logits")),
        "model.pooling logits is only for encoding and evaluation",
    ),
    "options of adapters without adapters": (
        config_of(lora=LoraConfig(method="full", layers=(1,))),
        "lora.layers: lora.method full trains every weight",
    ),
    "a suffix in an exported prompt": (
        config_of(model=ModelConfig(name_or_path="x", prompt="prompteol", tokenization="joint")),
        "only add with model.tokenization separate; use it, or export.model false",
    ),
    "merging into 4 bit": (
        config_of(model=ModelConfig(name_or_path="x", load_in_4bit=True), export=ExportConfig(merge=True)),
        "export.merge: an adapter cannot be merged into 4-bit weights",
    ),
    "depth without merging": (
        config_of(model=ModelConfig(name_or_path="x", depth=1)),
        "model.depth 1: sentence-transformers would load the whole base",
    ),
    "a push to what is no repository": (config_of(export=ExportConfig(push="m")), "not a repository name"),
    "a push of nothing": (config_of(export=ExportConfig(push="alice/m", model=False)), "export.model false"),
    "a push without a token": (config_of(export=ExportConfig(push="alice/m")), "no Hub token"),
    "mining without pairs": (
        config_of(GRADED, mining=MiningConfig(every=1)),
        "mining.every: only pairs get negatives",
    ),
    "mining and no duplicates": (
        config_of(mining=MiningConfig(every=1), batch=BatchConfig(no_duplicates=True)),
        "which batch.no_duplicates forbids",
    ),
    "more negatives than ranks": (
        config_of(mining=MiningConfig(every=1, negatives=9, max_rank=8)),
        "more than the window of ranks 1 to 8 contains; raise mining.max_rank",
    ),
    "whitening without dev": (config_of(export=ExportConfig(whiten=True)), "export.whiten: its k is selected on dev"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_configuration_alone_shows(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.export.push, "get_token", lambda: None)
    config, words = CASES[case]
    with pytest.raises(UserError) as refused:
        check_config(config)
    assert words in str(refused.value)


def test_what_is_possible_passes_though_nothing_of_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    single = BatchConfig(sources="single")
    mixture = (PAIRS, changed(TEXTS, weight=2.0), GRADED, LABELLED)
    check_config(config_of())
    check_config(config_of(*mixture, batch=single, mining=MiningConfig(every=1)))
    check_config(config_of(eval=EvalSection(tests=("test.jsonl",))))
    monkeypatch.setattr(train.export.push, "get_token", lambda: None)
    monkeypatch.setenv("RANK", "1")  # only the main process pushes, and needs a token
    check_config(config_of(export=ExportConfig(push="alice/m")))


@pytest.mark.parametrize(
    ("engine", "sections", "words"),
    [
        (Fsdp2, {"mining": MiningConfig(every=10)}, "mining.every: not supported under FSDP2"),
        (Fsdp2, {"export": ExportConfig(push="user/name")}, "export.push: not supported under FSDP2"),
        (Zero3, {"load_in_4bit": True}, "model.load_in_4bit: not supported under ZeRO-3"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_sharded(
    tmp_path: Path, engine: type[Engine], sections: dict[str, Any], words: str
) -> None:
    folder, base = RunFolder(tmp_path / "run"), str(tiny_model_folder(tmp_path / "base"))
    model = ModelConfig(name_or_path=base, load_in_4bit=bool(sections.pop("load_in_4bit", False)))
    refused = config_of(model=model, **sections)
    check_folder(refused, Ddp, folder)
    check_folder(config_of(model=ModelConfig(name_or_path=base)), engine, folder)
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        check_folder(refused, engine, folder)


def test_the_run_folder_must_not_hold_the_base_or_other_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    inside = ModelConfig(name_or_path=str(tiny_model_folder(folder.model)))
    outside = ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "base")))
    with pytest.raises(UserError, match="would be overwritten by training; choose another output_dir"):
        check_folder(config_of(model=inside), Ddp, folder)
    with pytest.raises(UserError, match="exists and is not an export of dec2vec"):
        check_folder(config_of(model=outside), Ddp, folder)
    check_folder(config_of(model=outside, export=ExportConfig(model=False)), Ddp, folder)


def samplers_made(config: Path) -> int:
    os.chdir(config.parent)
    with unittest.mock.patch.object(train.build, "make_sampler", wraps=train.build.make_sampler) as make:
        train_run(config, config.parent / "out", "--optim.steps", "1", "--export.model", "false")
    return make.call_count


def test_the_sampler_is_made_once(tmp_path: Path) -> None:
    assert run_alone(samplers_made, write_run(tmp_path)) == 1
