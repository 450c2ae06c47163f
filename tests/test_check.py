"""`dec2vec check`: a good export passes everything; one that is broken in one way fails in one check, the right one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dec2vec.checks.args import CheckArgs
from dec2vec.checks.command import check_model
from dec2vec.checks.finding import Finding, failed, table
from dec2vec.checks.place import find_place
from dec2vec.checks.servers import check_servers
from dec2vec.checks.subject import open_subject
from dec2vec.cli import main
from tests.export_cases import PEFT_WARNING, tuned_encoder, whiten
from tests.helpers import tiny_model_folder
from train.export import save_adapter, save_sentence_transformer

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
    return {finding.check: finding for finding in check_model(CheckArgs(model=str(folder), device="cpu"))}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


def no_eos(folder: Path) -> None:
    edit(folder / "tokenizer.json", post_processor=None)


def eos_twice(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    entry = content["post_processor"]["special_tokens"]["<tail>"]
    entry["ids"], entry["tokens"] = entry["ids"] * 2, entry["tokens"] * 2
    edit(folder / "tokenizer.json", post_processor=content["post_processor"])


def left_padding(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", padding_side="left")


def zero_adapter(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    zeroed = {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in weights.items()}
    save_file(zeroed, folder / "adapter_model.safetensors", {"format": "pt"})


def base_weights(folder: Path) -> None:
    shutil.copy(folder.parent / "base-llama" / "model.safetensors", folder / "model.safetensors")


def prompts(**changed: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config_sentence_transformers.json"
        edit(path, prompts={**json.loads(path.read_text())["prompts"], **changed})

    return change


def doubled_prompt(folder: Path) -> None:
    prompt = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["query"]
    prompts(query=prompt * 2)(folder)


def no_default_prompt(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", default_prompt_name=None)


def lower_cased(folder: Path) -> None:
    edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"})


def short(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", max_seq_length=8)
    edit(folder / "tokenizer_config.json", model_max_length=8)


def unlimited(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", max_seq_length=4096)
    edit(folder / "tokenizer_config.json", model_max_length=4096)


def cut_left(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", truncation_side="left")


def pooled(mode: str) -> Callable[[Path], None]:
    return lambda folder: edit(
        folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=False, **{f"pooling_mode_{mode}": True}
    )


def without_prompt(folder: Path) -> None:
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)


def no_normalize(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]), encoding="utf-8")


def spoil(file: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def spoilt(folder: Path) -> None:
        weights = {name: change(name, tensor) for name, tensor in load_file(folder / file).items()}
        save_file(weights, folder / file, {"format": "pt"})

    return spoilt


def _nan(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 3, torch.nan, tensor)


def _large(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 1e6 if "down_proj" in name else tensor


def overflowing(folder: Path) -> None:
    spoil("model.safetensors", _large)(folder)
    edit(folder / "sentence_bert_config.json", model_kwargs={"dtype": "float16"})


def torn(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def more_tokens(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    fresh = {**content["added_tokens"][0], "id": len(content["model"]["vocab"]), "content": "<new>", "special": False}
    edit(folder / "tokenizer.json", added_tokens=[*content["added_tokens"], fresh])


def swapped_tokens(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    edit(folder / "tokenizer.json", model=content["model"])


def other_dense(folder: Path) -> None:
    spoil("2_Dense/model.safetensors", lambda name, tensor: tensor.flip(0).contiguous())(folder)


def no_modules(folder: Path) -> None:
    for name in ("modules.json", "dec2vec.json"):
        (folder / name).unlink()


BREAKS: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    "EOS off": ("instruct", no_eos, "last token", "does not end texts in '<eos>'"),
    "EOS off, mean pooling": ("full-mean", no_eos, "last token", "does not end texts in '<eos>'"),
    "EOS twice": ("instruct", eos_twice, "last token", "stands twice"),
    "suffix off": ("suffix", no_eos, "last token", "does not end texts in ' it?'"),
    "padded left": ("gpt2", left_padding, "padding", "changes by"),
    "zero adapter": ("instruct", zero_adapter, "adapter", "lora_B are zero"),
    "merged without effect": ("merged", base_weights, "adapter", "weights equal those of"),
    "prompt missing": ("instruct", prompts(query=""), "prompts", "the query prompt is missing"),
    "prompt of the other side": ("instruct", prompts(document="Query: "), "prompts", "the document prompt differs"),
    "prompt twice": ("instruct", doubled_prompt, "prompts", "is written twice"),
    "prompt by name only": ("instruct", no_default_prompt, "prompts", "default_prompt_name is empty"),
    "other ids": ("instruct", lower_cased, "prompts", "other token ids"),
    "cut early": ("merged", short, "truncation", "after 8 tokens, dec2vec after 160"),
    "cut never": ("gpt2", unlimited, "truncation", "after 4096 tokens; the decoder has 256 positions"),
    "beginning cut": ("instruct", cut_left, "truncation", "lose their beginning"),
    "mean for last": ("instruct", pooled("mean_tokens"), "pooling", "pools mean, trained with lasttoken"),
    "mean without prompt": ("full-mean", without_prompt, "pooling", "leaves the prompt's tokens out"),
    "not normalised": ("instruct", no_normalize, "unit length", "vectors have lengths"),
    "nan in the adapter": ("instruct", spoil("adapter_model.safetensors", _nan), "weights", "holds nan"),
    "nan in the model": ("full-mean", spoil("model.safetensors", _nan), "weights", "holds nan"),
    "float16 overflow": ("full-mean", overflowing, "overflow", "float16, which ends at 65504"),
    "torn weights": ("full-mean", torn, "weights", "can't be read"),
    "token without a row": ("instruct", more_tokens, "vocabulary", "'<new>' has id"),
    "tokens moved": ("instruct", swapped_tokens, "vocabulary", "2 tokens have other ids"),
    "another whitening": ("merged", other_dense, "same vectors", "differ by"),
    "an adapter and no word how": ("instruct", no_modules, "loads", "nothing says how"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_good_export_passes(exports: dict[str, Path], name: str) -> None:
    found = findings(exports[name])
    assert {finding.verdict for finding in found.values()} == {"pass"}, table(list(found.values()))


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(exports: dict[str, Path], tmp_path: Path, name: str) -> None:
    export, spoilt, check, what = BREAKS[name]
    folder = exports[export].parent / f"broken-{name.replace(' ', '-')}"
    shutil.copytree(exports[export], folder)
    spoilt(folder)
    found = findings(folder)
    assert failed(list(found.values())) == [check], table(list(found.values()))
    assert what in found[check].what and found[check].fix


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
    "adapter": (lambda folder: (folder / "config.json").unlink(), "want it merged"),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_servers_would_find(exports: dict[str, Path], tmp_path: Path, name: str) -> None:
    """By the files: the model is loaded as it was, so that only the files speak."""
    change, what = SERVED[name]
    folder = shutil.copytree(exports["merged"], tmp_path / "model")
    subject = open_subject(find_place(CheckArgs(model=str(folder), device="cpu")))
    change(folder)
    if name == "weighted mean":
        subject.pooling.pooling_mode = "weightedmean"
    found = check_servers(subject)
    assert what in found.what
    assert (found.verdict == "warn") == bool(found.fix) == (name not in ("as it is", "mistral", "adapter"))


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
    assert "make it first" in capsys.readouterr().err
