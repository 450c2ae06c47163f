"""Design invariant 6: reloaded by any route the vectors agree with those in memory, and differ from the base's.

Everything is exported once; one fresh process then loads all of it with plain sentence-transformers and PEFT.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig

import train.export.save
from dec2vec.cli import main
from dec2vec.config.load import dump
from dec2vec.config.model import ModelConfig
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import BASE, MAX_LENGTH, PEFT_WARNING, TEXTS, both_sides, tuned_encoder, whiten
from tests.helpers import tiny_model_folder
from train.config import TrainConfig
from train.export.export import ExportArgs, export_command
from train.export.save import save_adapter, save_sentence_transformer
from train.export.sentence_transformers import older_rotary_keys

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TOLERANCE = 1e-5
STS = {"text_normalization": "sts", "tokenization": "separate"}
CASES: dict[str, dict[str, Any]] = {
    "adapter": {},
    "merged": {"merge": True},
    "whitened": {"whiten": True},
    "merged-whitened-mean": {"merge": True, "whiten": True, "pooling": "mean"},
    "instruct-mean": {"prompt": "instruct", "pooling": "mean"},
    "instruct-sts": {"prompt": "instruct", "text_normalization": "sts"},
    "eol-weighted": {"prompt": "prompteol", "tokenization": "separate", "pooling": "weighted_mean"},
    "cot-sts-inner-layer": {"prompt": "pretended_cot", "layer": -2, **STS},
    "cot-sts-merged": {"prompt": "pretended_cot", "layer": -2, "merge": True, **STS},
    "own-template-max": {"prompt": "Is {text} it?", "pooling": "max", "layer": 0.4, **STS},
    "lower-case": {"text_normalization": "lower", "prompt": " {text}", "pooling": "mean"},
    "lower-case-suffix": {"text_normalization": "lower", "prompt": "is {text} it?", "tokenization": "separate"},
    "full": {"full": True},
    "whole-embeddings": {"lora": {"modules_to_save": ["embed_tokens"]}},
    "whole-embeddings-inner-merged": {"lora": {"modules_to_save": ["embed_tokens"]}, "layer": 1, "merge": True},
    "gpt2": {"family": "gpt2", "lora": {"fan_in_fan_out": True}},
    "qwen2-eol-merged": {"family": "qwen2", "prompt": "prompteol", "tokenization": "separate", "merge": True},
    "opt": {"family": "opt"},
    "pissa": {"lora": {"init_lora_weights": "pissa"}},
    "olora": {"lora": {"init_lora_weights": "olora"}},
    "two-blocks-merged": {"depth": 2, "merge": True},
    "two-blocks-full": {"depth": 2, "full": True, "family": "qwen2"},
    "dora-rslora": {"lora": {"use_dora": True, "use_rslora": True}},
}
FURTHER = ("merged", "instruct-mean", "lower-case-suffix", "cot-sts-inner-layer", "opt", "olora")
"""What each of these shows, other cases show together."""
BY_NAME = ("adapter", "eol-weighted")
PEFT_CASES = ("adapter", "gpt2", "opt", "pissa", "olora", "dora-rslora", "whole-embeddings")


def each_of(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in FURTHER else name for name in names]


FRESH_PROCESS = """
import json, sys
import numpy as np
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

jobs, texts, root = json.load(open(sys.argv[1])), json.load(open(sys.argv[2])), sys.argv[3]
for name, job in jobs.items():
    model = SentenceTransformer(job["model"], device="cpu")
    np.save(f"{root}/{name}.st.npy", np.concatenate([model.encode_query(texts), model.encode_document(texts)]))
    if job["adapter"]:
        base = AutoModel.from_pretrained(job["base"], dtype=torch.float32)
        peft = PeftModel.from_pretrained(base, job["adapter"]).eval()
        with torch.no_grad():
            states = [peft(torch.tensor([ids])).last_hidden_state[0, -1] for ids in job["ids"]]
        np.save(f"{root}/{name}.peft.npy", torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy())
    print(name, model.max_seq_length, model.tokenizer.padding_side, model[0].auto_model.dtype, model.dtype)
"""


@dataclasses.dataclass
class Exported:
    """One case: where it was written, and what it must give."""

    encoder: Encoder
    base: Path
    adapter: Path
    model: Path
    expected: np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def exported(root: Path, request: pytest.FixtureRequest) -> dict[str, Exported]:
    """The cases of the tests that are selected."""
    items: list[Any] = [item for item in request.session.items if item.path == request.path]
    selected = {item.callspec.params.get("name") for item in items if hasattr(item, "callspec")}
    return {name: _export(root, name, dict(CASES[name])) for name in CASES if name in {*selected, *BY_NAME}}


def _export(root: Path, name: str, case: dict[str, Any]) -> Exported:
    merge, whitened = case.pop("merge", False), case.pop("whiten", False)
    base = root / f"base-{case.get('family', 'llama')}"
    encoder = tuned_encoder(base, **case)
    if whitened:
        whiten(encoder)
    adapter = save_adapter(encoder, root / name / "adapter")
    model = save_sentence_transformer(encoder, root / name / "model", merge, encoder.whitening)
    return Exported(encoder, base, adapter, model, both_sides(encoder))


@pytest.fixture(scope="module")
def fresh(root: Path, exported: dict[str, Exported]) -> str:
    """Vectors of all folders by the other libraries; what the process printed."""
    jobs = {
        name: {
            "model": str(item.model),
            "base": str(item.base),
            "adapter": str(item.adapter) if name in PEFT_CASES else None,
            "ids": item.encoder.tokenize(TEXTS, side="query"),
        }
        for name, item in exported.items()
    }
    (root / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    (root / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    arguments = [str(root / "jobs.json"), str(root / "texts.json"), str(root)]
    return _python(FRESH_PROCESS, *arguments)


def _python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _in_batches(encoder: Encoder) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([encoder.encode(TEXTS, side=side, progress=False) for side in ("query", "document")])


def _difference(first: Any, second: Any) -> float:
    return float(np.abs(np.asarray(first) - np.asarray(second)).max())


@pytest.mark.parametrize("name", each_of(CASES))
def test_sentence_transformers_in_a_fresh_process_agrees(
    name: str, root: Path, exported: dict[str, Exported], fresh: str
) -> None:
    assert _difference(np.load(root / f"{name}.st.npy"), exported[name].expected) < TOLERANCE
    line = next(line for line in fresh.splitlines() if line.split()[0] == name)
    assert line.split()[1:] == [str(MAX_LENGTH), "right", "torch.float32", "torch.float32"]


@pytest.mark.parametrize("name", each_of(PEFT_CASES))
@pytest.mark.usefixtures("fresh")
def test_base_and_adapter_by_peft_agree(name: str, root: Path, exported: dict[str, Exported]) -> None:
    by_hand = np.load(root / f"{name}.peft.npy")
    assert _difference(by_hand, exported[name].expected[: len(TEXTS)]) < TOLERANCE


@pytest.mark.parametrize("name", each_of(CASES))
def test_our_encoder_reads_both_folders(name: str, exported: dict[str, Exported]) -> None:
    item = exported[name]
    for folder in (item.adapter, item.model):
        encoder = Encoder.load(ModelConfig(name_or_path=str(folder), device="cpu"))
        assert encoder.config.prompt == item.encoder.config.prompt
        assert _difference(_in_batches(encoder), item.expected) < TOLERANCE


@pytest.mark.parametrize("name", each_of(CASES))
def test_the_tuned_vectors_differ_from_the_base(name: str, exported: dict[str, Exported]) -> None:
    item = exported[name]
    base = Encoder.load(dataclasses.replace(item.encoder.config, name_or_path=str(item.base)))
    base.whitening = item.encoder.whitening
    assert _difference(_in_batches(base), item.expected) > 1e-2


def test_the_text_is_cut_and_prompt_and_eos_survive(exported: dict[str, Exported]) -> None:
    """Long texts that differ only past the limit are one vector; that differ before it are two."""
    encoder = exported["eol-weighted"].encoder
    tail = encoder.tokenizer('" means in one word:"', add_special_tokens=False)["input_ids"]
    (ids,) = encoder.tokenize(["word " * 500])
    assert len(ids) == MAX_LENGTH and ids[-len(tail) :] == tail
    (bare,) = exported["adapter"].encoder.tokenize(["word " * 500])
    assert len(bare) == MAX_LENGTH and bare[-1] == encoder.tokenizer.eos_token_id


def test_adapter_folder_names_base_and_revision(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    encoder.config = dataclasses.replace(encoder.config, revision="v1")
    folder = save_adapter(encoder, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["revision"] == "v1"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "dec2vec.json",
    }


def test_saving_leaves_the_encoder_as_it_was(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    before = both_sides(encoder)
    save_sentence_transformer(encoder, tmp_path / "model", True, None)
    assert np.array_equal(both_sides(encoder), before)


def test_public_folders_hide_where_a_local_base_lies(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    for merge in (False, True):
        folder = save_sentence_transformer(encoder, tmp_path / f"m{merge}", merge, None, public=True)
        assert _files_naming(folder, str(tmp_path)) == []
    assert _files_naming(save_adapter(encoder, tmp_path / "adapter"), str(tmp_path)) != []


def _files_naming(folder: Path, text: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling": "first_last"}, "model.pooling last, mean, weighted_mean, max"),
        ({"prompt": "prompteol", "tokenization": "joint"}, "model.tokenization separate"),
    ],
)
def test_what_sentence_transformers_cannot_do_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    encoder = tuned_encoder(tmp_path / "base", **config)
    with pytest.raises(UserError, match=message):
        save_sentence_transformer(encoder, tmp_path / "model", False, None)
    assert not (tmp_path / "model").exists()
    again = Encoder.load(ModelConfig(name_or_path=str(save_adapter(encoder, tmp_path / "adapter"))))
    assert _difference(both_sides(again), both_sides(encoder)) < TOLERANCE


def test_a_tokenizer_that_reads_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    monkeypatch.setattr(encoder, "tokenize", lambda texts, *, side: [[5, 0]] * len(texts))
    with pytest.raises(UserError, match="different token ids"):
        save_sentence_transformer(encoder, tmp_path / "model", False, None)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("bug")])
def test_a_failed_export_leaves_the_old_folder_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    folder = save_sentence_transformer(encoder, tmp_path / "out" / "model", False, None)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(train.export.save, "save_modules", fail)
    expected = (UserError, "disk is full") if isinstance(error, OSError) else (RuntimeError, "bug")
    with pytest.raises(expected[0], match=expected[1]):
        save_sentence_transformer(encoder, folder, True, None)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="not an export of dec2vec"):
        save_sentence_transformer(encoder, tmp_path / "thesis", False, None)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run: config.yaml and adapter/."""
    folder = tmp_path / "runs" / "demo"
    encoder = tuned_encoder(tmp_path / "base")
    save_adapter(encoder, folder / "adapter")
    config = TrainConfig(model=dataclasses.replace(BASE, name_or_path=str(tmp_path / "base")))
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    return folder


def test_export_command_writes_model_again(run: Path) -> None:
    expected = both_sides(Encoder.load(ModelConfig(name_or_path=str(run))))
    assert export_command(ExportArgs(run=run)) == run / "model"
    merged = export_command(ExportArgs(run=run, to=run.parent / "merged", merge=True))
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert (merged / "model.safetensors").is_file() and (merged / "adapter" / "dec2vec.json").is_file()
    for folder in (run / "model", merged, merged / "adapter"):
        found = both_sides(Encoder.load(ModelConfig(name_or_path=str(folder))))
        assert _difference(found, expected) < TOLERANCE
    assert (merged / "README.md").read_text().startswith("---\n")


def test_export_command_refuses_what_is_no_finished_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        export_command(ExportArgs(run=tmp_path / "nothing"))
    with pytest.raises(UserError, match="the adapter folder of the run"):
        export_command(ExportArgs(run=run, to=run / "adapter"))
    (run / "adapter" / "dec2vec.json").unlink()
    with pytest.raises(UserError, match="wait until training has finished"):
        export_command(ExportArgs(run=run))


def test_the_folder_says_what_servers_and_older_loaders_read(tmp_path: Path) -> None:
    """docs/guides/production.md: one test for the facts of its tables."""
    for family in ("qwen3", "mistral", "llama"):
        tiny_model_folder(tmp_path / family, family)
        edited = json.loads((tmp_path / family / "config.json").read_text())
        edited["rope_parameters"]["rope_theta"] = 1e6
        edited["eos_token_id"] = [0, 5]
        (tmp_path / family / "config.json").write_text(json.dumps(edited))
        encoder = tuned_encoder(tmp_path / family, prompt="instruct")
        whiten(encoder)
        folder = save_sentence_transformer(encoder, tmp_path / f"{family}-model", True, encoder.whitening)
        config = _json(folder / "config.json")
        assert config["architectures"] == [f"{family.title()}Model"] and config["model_type"] == family
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1e6
        assert config["eos_token_id"] == 0 and config["dtype"] == "float32"
        assert AutoConfig.from_pretrained(folder).rope_parameters == {"rope_theta": 1e6, "rope_type": "default"}
        assert _difference(both_sides(Encoder.load(ModelConfig(name_or_path=str(folder)))), both_sides(encoder)) < 1e-5
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    pooling = _json(folder / "1_Pooling" / "config.json")
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_lasttoken", "include_prompt"]
    sentence = _json(folder / "sentence_bert_config.json")
    assert sentence == {"max_seq_length": MAX_LENGTH, "do_lower_case": False}  # before 5.4 no other key is known
    tokenizer = _json(folder / "tokenizer_config.json")
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]  # no token types: GPT-2 would add them
    assert tokenizer["processor_class"] == tokenizer["tokenizer_class"]
    assert set(_json(folder / "config_sentence_transformers.json")["prompts"]) == {"query", "document"}
    dense = _json(folder / "2_Dense" / "config.json")
    assert dense["activation_function"] == "torch.nn.modules.linear.Identity" and dense["bias"] is True
    assert load_file(folder / "2_Dense" / "model.safetensors").keys() == {"linear.weight", "linear.bias"}
    assert "embed_tokens.weight" in load_file(folder / "model.safetensors")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("text").ids
    assert ids[-1] == encoder.tokenizer.eos_token_id and ids.count(ids[-1]) == 1


@pytest.mark.parametrize(
    ("parameters", "older"),
    [
        (None, {}),
        ({"full_attention": {"rope_theta": 1e6}}, {}),
        ({"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_type": "yarn", "factor": 4.0},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        ),
        (
            {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
    ],
)
def test_older_rotary_keys(parameters: dict[str, Any] | None, older: dict[str, Any]) -> None:
    assert older_rotary_keys(parameters) == older


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_a_fully_tuned_run_is_exported_from_its_model_folder(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base", full=True)
    run = tmp_path / "run"
    assert save_adapter(encoder, run / "adapter") == run / "model"
    assert not (run / "adapter").exists()
    config = TrainConfig(model=dataclasses.replace(BASE, name_or_path=str(tmp_path / "base")))
    (run / "config.yaml").write_text(dump(config), encoding="utf-8")
    for folder in (export_command(ExportArgs(run=run)), export_command(ExportArgs(run=run, to=tmp_path / "to"))):
        again = Encoder.load(ModelConfig(name_or_path=str(folder)))
        assert _difference(both_sides(again), both_sides(encoder)) < TOLERANCE
        assert "`base`" in (folder / "README.md").read_text()


def test_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", str(run.parent / "to"), "--merge", "true"]) == 0
    assert capsys.readouterr().out == f"model    {run.parent / 'to'}\n"
    assert main(["export", str(run), "--push", "nobody"]) == 2
    assert "not a repository name" in capsys.readouterr().err
