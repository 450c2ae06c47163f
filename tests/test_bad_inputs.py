"""Bad inputs through the real command: one line that names the culprit and the fix, exit code 2, nothing damaged.

Every case aims at a folder that holds an earlier finished run, with `--checkpoint.resume never`: the most that a
mistake could destroy.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import huggingface_hub.constants
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    PreTrainedTokenizerFast,
    T5Config,
    ViTConfig,
)

import train.checkpoint
from dec2vec.cli import main
from tests.helpers import (
    graded_pairs,
    tiny_config,
    tiny_model_folder,
    tiny_tokenizer,
    word_pairs,
    write_jsonl,
)

STEPS = 4
PAIR = b'{"anchor": "one dog", "positive": "a dog"}\n'
GRADED = '{"sentence1": "one dog", "sentence2": "a cat", "score": 2}\n'


@dataclass(frozen=True)
class Place:
    """A folder with good inputs and an earlier run, for one case to spoil; `shelf` is shared and only read."""

    path: Path
    shelf: Path
    locks: list[IO[str]] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.path / "run"

    def file(self, name: str, content: str | bytes) -> str:
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def train(self, *options: str) -> list[str]:
        return ["train", str(self.shelf / "train.yaml"), "--output_dir", str(self.run), *options]

    def resume(self, *options: str) -> list[str]:
        return self.train("--checkpoint.resume", "auto", *options)

    def yaml(self, text: str | bytes) -> list[str]:
        return ["train", self.file("spoilt.yaml", text), "--output_dir", str(self.run)]

    def pairs(self, content: str | bytes, name: str = "spoilt.jsonl") -> list[str]:
        return self.train("--data.0.path", self.file(name, content))

    def third_pair(self, line: bytes) -> list[str]:
        return self.pairs(PAIR + b'{"anchor": "a red cat", "positive": "cats"}\n' + line + b"\n" + PAIR)

    def graded(self, content: str | bytes) -> list[str]:
        return self.train("--eval.dev", self.file("graded.jsonl", content))

    def model(self, name: str, *options: str) -> list[str]:
        return self.train("--model.name_or_path", str(shelved(self.shelf, name)), *options)

    def eval(self, *options: str) -> list[str]:
        return ["eval", str(self.shelf / "eval.yaml"), "--output_dir", str(self.run), *options]

    def encode(self, *, source: str | None = None, output: str = "vectors.npy", model: Path | None = None) -> list[str]:
        source = self.file("texts.txt", "one\ntwo\n") if source is None else source
        argv = ["--model", str(model or self.run), "--input", source, "--output", str(self.path / output)]
        return ["encode", *argv]

    def checkpoint(self, step: int = STEPS) -> Path:
        return self.run / "checkpoints" / f"step-{step:06d}"

    def snapshot(self) -> dict[Path, bytes]:
        """Every file but the lock, which names the process that had the folder last."""
        files = (path for folder in (self.path, self.shelf) for path in folder.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files if path.name != ".lock"}


Build = Callable[[Place], list[str]]


def shelved(shelf: Path, name: str) -> Path:
    """A model folder, made when first asked for."""
    folder = shelf / name
    if not folder.exists():
        MODELS[name](folder)
    return folder


def other_architecture(config: Any, *, tokenizer: bool = True) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        AutoModel.from_config(config).save_pretrained(folder)
        if tokenizer:
            tiny_tokenizer().save_pretrained(folder)

    return write


def without_tokenizer(folder: Path) -> None:
    AutoModel.from_config(tiny_config("llama")).save_pretrained(folder)


def with_special_tokens(**tokens: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        without_tokenizer(folder)
        backend = tiny_tokenizer().backend_tokenizer
        PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)

    return write


def as_pickle(folder: Path) -> None:
    tiny_model_folder(folder)
    (folder / "model.safetensors").unlink()
    torch.save(AutoModel.from_config(tiny_config("llama")).state_dict(), folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    tiny_model_folder(folder)
    halve(folder / "model.safetensors")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MODELS: dict[str, Callable[[Path], object]] = {
    "llama": tiny_model_folder,
    "gpt2": lambda folder: tiny_model_folder(folder, "gpt2"),
    "empty": Path.mkdir,
    "no_tokenizer": without_tokenizer,
    "no_eos": with_special_tokens(pad_token="<pad>"),
    "no_pad": with_special_tokens(eos_token="<eos>"),
    "pickle": as_pickle,
    "cut_short": cut_short,
    "bert": other_architecture(BertConfig(vocab_size=320, **TINY)),
    "vit": other_architecture(ViTConfig(image_size=8, patch_size=4, **TINY), tokenizer=False),
    "t5": other_architecture(T5Config(vocab_size=320, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)),
}


def use(place: Place) -> list[str]:
    """Another run has the output folder."""
    lock = (place.run / ".lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    place.locks.append(lock)
    return place.train()


def pickled_checkpoint(place: Place) -> list[str]:
    (place.checkpoint() / "adapter.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, place.checkpoint() / "adapter.pt")
    return place.resume()


def pickled_adapter(place: Place) -> list[str]:
    (place.run / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, place.run / "adapter" / "adapter_model.bin")
    return place.encode()


def torn_adapter(place: Place) -> list[str]:
    halve(place.run / "adapter" / "adapter_model.safetensors")
    return place.encode()


def spoilt_marker(place: Place) -> list[str]:
    (place.run / "adapter" / "dec2vec.json").write_text("{")
    return place.encode()


def base_gone(place: Place) -> list[str]:
    marker = place.run / "adapter" / "dec2vec.json"
    marker.write_text(marker.read_text().replace(str(place.shelf / "llama"), str(place.path / "moved")))
    return place.encode()


def unfinished(place: Place) -> list[str]:
    shutil.rmtree(place.run / "adapter")
    shutil.rmtree(place.run / "model")
    return ["export", str(place.run)]


def export_over_other_files(place: Place) -> list[str]:
    (place.path / "mine").mkdir()
    place.file("mine/thesis.txt", "years of work")
    return ["export", str(place.run), "--to", str(place.path / "mine")]


def dev_is_test(place: Place) -> list[str]:
    return place.eval("--tests", place.file("copy.jsonl", (place.shelf / "dev.jsonl").read_bytes()))


def dev_is_test_in_training(place: Place) -> list[str]:
    copy = place.file("copy.jsonl", (place.shelf / "dev.jsonl").read_bytes())
    return place.train("--eval.tests", copy, "--eval.after_training", "true")


CASES: dict[str, tuple[Build, tuple[str, ...]]] = {
    # the command and its options
    "misspelt verb": (lambda p: ["trian", "x.yaml"], ("unknown verb 'trian'", "did you mean train?")),
    "unknown option in the file": (
        lambda p: p.yaml("optim: {stepps: 3}"),
        ("optim.stepps: unknown option", "did you mean optim.steps?"),
    ),
    "unknown option on the command line": (
        lambda p: p.train("--xyzzy", "1"),
        ("--xyzzy: unknown option", "--help lists the options"),
    ),
    "misspelt option": (lambda p: p.train("--optim.lrr", "1"), ("--optim.lrr", "did you mean optim.lr?")),
    "wrong type": (lambda p: p.train("--lora.rank", "many"), ("lora.rank: 'many'", "must be a whole number")),
    "section that is none": (lambda p: p.yaml("optim: fast"), ("optim: 'fast'", "must be a section")),
    "no steps": (lambda p: p.train("--optim.steps", "0"), ("optim.steps: '0'", "greater than or equal to 1")),
    "negative seed": (lambda p: p.train("--seed", "-1"), ("seed: '-1'", "greater than or equal to 0")),
    "seed that no generator takes": (lambda p: p.train("--seed", str(10**30)), ("seed: ", "less than")),
    "negative learning rate": (lambda p: p.yaml("optim: {lr: -1}"), ("optim.lr: -1", "greater than 0")),
    "dropout of 1": (lambda p: p.train("--lora.dropout", "1"), ("lora.dropout: '1'", "less than 1")),
    "temperature nan": (
        lambda p: p.train("--loss.temperature", "nan"),
        ("loss.temperature", "finite number"),
    ),
    "batch of one": (
        lambda p: p.train("--batch.size", "1"),
        ("batch.size: '1'", "greater than or equal to 2"),
    ),
    "malformed YAML": (lambda p: p.yaml("seed: 1\nlora: [1, 2"), ("spoilt.yaml line 2",)),
    "YAML that is not UTF-8": (
        lambda p: p.yaml(b"output_dir: \xff"),
        ("spoilt.yaml line 1", "save it as UTF-8"),
    ),
    "no such config": (lambda p: ["train", str(p.path / "none.yaml")], ("none.yaml does not exist",)),
    # training pairs
    "no data": (lambda p: p.yaml("seed: 1"), ("data: no training pairs", "--data.0.path pairs.jsonl")),
    "no such data": (lambda p: p.train("--data.0.path", "none.jsonl"), ("none.jsonl does not exist",)),
    "unknown format": (lambda p: p.pairs("x", "spoilt.docx"), ("spoilt.docx: unknown format", ".jsonl")),
    "wrong column": (
        lambda p: p.train("--data.0.anchor", "query"),
        ("pairs.jsonl: no column 'query'", "the columns are: anchor, positive"),
    ),
    "empty file": (lambda p: p.pairs(""), ("spoilt.jsonl is empty",)),
    "malformed JSON": (lambda p: p.third_pair(b'{"anchor": '), ("spoilt.jsonl line 3: not JSON", "column")),
    "JSON without names": (
        lambda p: p.third_pair(b'["a", "b"]'),
        ("spoilt.jsonl line 3", "a row is an object"),
    ),
    "not UTF-8": (
        lambda p: p.third_pair(b'{"anchor": "caf\xe9", "positive": "x"}'),
        ("spoilt.jsonl line 3: byte 0xe9 is not UTF-8", "save the file as UTF-8"),
    ),
    "null text": (
        lambda p: p.third_pair(b'{"anchor": null, "positive": "x"}'),
        ("spoilt.jsonl line 3: anchor is null", "fill it or remove the row"),
    ),
    "empty text": (
        lambda p: p.third_pair(b'{"anchor": "x", "positive": ""}'),
        ("spoilt.jsonl line 3: positive is blank", "fill it or remove the row"),
    ),
    "white space": (
        lambda p: p.third_pair(b'{"anchor": " \\n", "positive": "x"}'),
        ("spoilt.jsonl line 3: anchor is blank",),
    ),
    "number for text": (
        lambda p: p.third_pair(b'{"anchor": 5, "positive": "x"}'),
        ("spoilt.jsonl line 3: anchor is a number (5), not text", "put it in quotes"),
    ),
    "row without a column": (
        lambda p: p.third_pair(b'{"anchor": "x"}'),
        ("spoilt.jsonl line 3: no 'positive'", "this row has: anchor"),
    ),
    "column of numbers": (
        lambda p: p.pairs("anchor,positive\n1,x\n2,y\n", "spoilt.csv"),
        ("spoilt.csv: column 'anchor' holds only numbers", "name a column of texts"),
    ),
    "ragged csv": (
        lambda p: p.pairs("anchor,positive\na,b\nc,d,e\n", "spoilt.csv"),
        ("spoilt.csv row 3: 3 fields under 2 column names",),
    ),
    "no parquet": (
        lambda p: p.pairs("PAR", "spoilt.parquet"),
        ("spoilt.parquet: not a readable parquet file",),
    ),
    "one pair": (lambda p: p.pairs(PAIR), ("spoilt.jsonl: 1 pair", "at least two")),
    "all pairs equal": (lambda p: p.pairs(PAIR * 9), ("spoilt.jsonl: all anchors are equal ('one dog')",)),
    "batch larger than the data": (
        lambda p: p.train("--batch.size", "400"),
        ("batch.size 400 is larger than the data (12 pairs)", "use --batch.size 12 or less"),
    ),
    "weight without batches of one source": (
        lambda p: p.train("--data.0.weight", "2"),
        ("data.0.weight: only batches of one source have weights", "add --batch.sources one"),
    ),
    "source of one pair": (
        lambda p: p.train("--batch.sources", "one", "--data.0.limit", "1"),
        ("pairs.jsonl", "1 pair"),
    ),
    "one of two sources with one pair": (
        lambda p: p.train("--batch.sources", "one", "--data.1.path", p.file("lone.jsonl", PAIR)),
        ("data.1 (", "lone.jsonl): 1 pair; a batch of one source needs at least two"),
    ),
    # similarity files
    "score that is no number": (
        lambda p: p.graded(GRADED + GRADED.replace("2}", '"high"}')),
        ("graded.jsonl line 2: score 'high' is not a finite number",),
    ),
    "score nan": (
        lambda p: p.graded(GRADED + GRADED.replace("2}", "NaN}")),
        ("graded.jsonl line 2: score nan is not a finite number", "mend it or empty it"),
    ),
    "no score": (
        lambda p: p.graded(GRADED.replace("score", "label")),
        ("graded.jsonl: no column 'score'", "the columns are: sentence1, sentence2, label"),
    ),
    "scores all equal": (lambda p: p.graded(GRADED * 3), ("graded: every score is 2", "nothing to rank")),
    "bad test file, found before training": (
        lambda p: p.train("--eval.tests", p.file("later.jsonl", "{}\n"), "--eval.after_training"),
        ("later.jsonl: no column 'sentence1'",),
    ),
    "dev that is also a test, found before training": (
        dev_is_test_in_training,
        ("copy.jsonl", "dev.jsonl", "leakage"),
    ),
    "tests without dev": (
        lambda p: p.train("--eval.dev", "none", "--eval.tests", str(p.shelf / "test.jsonl"), "--eval.after_training"),
        ("eval.tests", "--eval.dev"),
    ),
    "whitening without dev": (
        lambda p: p.train("--eval.dev", "none", "--export.whiten"),
        ("export.whiten", "--eval.dev"),
    ),
    # how the model is read
    "unknown prompt": (
        lambda p: p.train("--model.prompt", "promteol"),
        ("'promteol'", "did you mean prompteol?"),
    ),
    "two slots": (lambda p: p.train("--model.prompt", "{text} or {text}"), ("2 slots {text}", "exactly one")),
    "suffix tokenised with the text": (
        lambda p: p.train("--model.prompt", "prompteol"),
        ("model.prompt 'prompteol'", "--model.tokenization separate"),
    ),
    "unknown pooling": (
        lambda p: p.train("--model.pooling", "cls"),
        ("model.pooling: 'cls' must be 'last', 'mean',",),
    ),
    "layer out of range": (lambda p: p.train("--model.layer", "9"), ("layer 9", "hidden states 0 to 3")),
    "negative layer out of range": (lambda p: p.train("--model.layer", "-5"), ("layer -5", "-1 to -4")),
    "fraction of depth": (lambda p: p.train("--model.layer", "1.5"), ("layer 1.5", "between 0.0 and 1.0")),
    "layer with nothing to tune": (
        lambda p: p.train("--model.layer", "0"),
        ("model.layer 0", "choose a layer above 0"),
    ),
    "room for the prompt only": (
        lambda p: p.train("--model.prompt", "instruct", "--model.max_length", "8"),
        ("max_length 8", "prompt 'instruct' alone takes", "set --model.max_length above"),
    ),
    "more tokens than positions": (
        lambda p: p.train("--model.max_length", "512"),
        ("model.max_length 512", "256 positions", "set it to 256 or less"),
    ),
    "more tokens than learned positions": (
        lambda p: p.model("gpt2", "--model.max_length", "512"),
        ("model.max_length 512", "256 positions"),
    ),
    "unknown LoRA target": (
        lambda p: p.train("--lora.targets", "q_prj"),
        ("lora.targets 'q_prj'", "did you mean q_proj?"),
    ),
    "LoRA target unknown beside a known one": (
        lambda p: p.train("--lora.targets", "q_proj", "xyzzy"),
        ("lora.targets 'xyzzy'", "all-linear", "down_proj"),
    ),
    "LoRA targets that are no pattern": (lambda p: p.train("--lora.targets", "("), ("lora.targets '('",)),
    "no LoRA targets": (lambda p: p.train("--lora.targets", ""), ("lora.targets",)),
    "odd rank for orthogonal": (
        lambda p: p.train("--lora.init", "orthogonal", "--lora.rank", "3"),
        ("lora: ", "rank to be even, got 3"),
    ),
    # models
    "no model named": (
        lambda p: p.train("--model.name_or_path", ""),
        ("model.name_or_path is empty", "Hub id"),
    ),
    "no such model": (
        lambda p: p.train("--model.name_or_path", str(p.path / "none")),
        ("none", "no such folder"),
    ),
    "no such Hub id": (
        lambda p: p.train("--model.name_or_path", "nobody/nothing"),
        ("nobody/nothing: no such folder here, and not from the Hub", "check the name"),
    ),
    "model that is a file": (
        lambda p: p.train("--model.name_or_path", p.file("model.gguf", "GGUF")),
        ("model.gguf", "folder"),
    ),
    "empty model folder": (lambda p: p.model("empty"), ("empty: no config.json in the folder",)),
    "model without tokenizer": (lambda p: p.model("no_tokenizer"), ("no_tokenizer", "tokenizer.json")),
    "encoder-only model": (lambda p: p.model("bert"), ("bert", "not causal", "use a decoder-only model")),
    "encoder-decoder model": (lambda p: p.model("t5"), ("t5 is no decoder-only language model", "name a decoder")),
    "vision model": (lambda p: p.model("vit"), ("vit is no decoder-only language model", "name a decoder")),
    "no EOS to pool": (
        lambda p: p.model("no_eos"),
        ("no_eos", "no EOS token", "set eos_token in its tokenizer_config.json"),
    ),
    "weights as pickle": (lambda p: p.model("pickle"), ("pytorch_model.bin", "pickle", "safetensors")),
    "weights cut short": (lambda p: p.model("cut_short"), ("cut_short: can't be loaded", "copy its files again")),
    "tuned model as base": (
        lambda p: p.train("--model.name_or_path", str(p.run)),
        ("model.name_or_path", "adapter", "--merge"),
    ),
    "CUDA where there is none": (
        lambda p: p.train("--model.device", "cuda"),
        ("model.device cuda", "no usable CUDA device", "--model.device cpu"),
    ),
    "4 bit on a CPU": (lambda p: p.train("--model.load_in_4bit"), ("model.load_in_4bit", "need CUDA")),
    "flash attention on a CPU": (
        lambda p: p.train("--model.attention", "flash_attention_2"),
        ("model.attention flash_attention_2", "needs CUDA", "--model.attention sdpa"),
    ),
    # run folders
    "output folder in use": (use, ("run is in use by another run", "choose another --output_dir")),
    "file where the output folder should be": (
        lambda p: p.train("--output_dir", p.file("taken", "x")),
        ("taken", "a file is in the way", "--output_dir"),
    ),
    "output folder that can't be made": (
        lambda p: p.train("--output_dir", "/proc/1/dec2vec-run"),
        ("cannot use output_dir /proc/1/dec2vec-run", "choose another --output_dir"),
    ),
    "checkpoint of another configuration": (
        lambda p: p.resume("--optim.lr", "0.1"),
        ("step-000004 belongs to another configuration", "--checkpoint.resume never"),
    ),
    "checkpoint as pickle": (
        pickled_checkpoint,
        ("step-000004/adapter.pt is a pickle", "convert it to .safetensors"),
    ),
    # other verbs
    "export of no run": (
        lambda p: ["export", str(p.shelf / "llama")],
        ("llama: not a run folder (no config.yaml)",),
    ),
    "export of an unfinished run": (
        unfinished,
        ("run: nothing to export yet", "let the training run finish"),
    ),
    "export over other files": (export_over_other_files, ("mine: exists and is not an export of dec2vec",)),
    "push to what is no name": (
        lambda p: ["export", str(p.run), "--push", "me"],
        ("push 'me': not a repository name", "user/name"),
    ),
    "encode an unknown format": (
        lambda p: p.encode(source=p.file("texts.docx", "x")),
        ("texts.docx: unknown format .docx", ".jsonl"),
    ),
    "encode without the column": (
        lambda p: p.encode(source=str(p.shelf / "pairs.jsonl")),
        ("pairs.jsonl: no column 'text'", "the columns are: anchor, positive"),
    ),
    "encode to an unknown format": (
        lambda p: p.encode(output="vectors.mat"),
        ("vectors.mat: unknown format .mat", "use .npy or .parquet"),
    ),
    "encode with an unknown prompt": (
        lambda p: [*p.encode(), "--prompt", "promteol"],
        ("did you mean prompteol?",),
    ),
    "encode with a pickled adapter": (
        pickled_adapter,
        ("no adapter_model.safetensors", "pickled adapters are not read"),
    ),
    "encode with a torn adapter": (torn_adapter, ("run/adapter/adapter_model.safetensors: damaged", "export it again")),
    "encode with a spoilt marker": (spoilt_marker, ("adapter/dec2vec.json: damaged", "export the run again")),
    "encode when the base has moved": (
        base_gone,
        ("adapter/dec2vec.json: the base model", "moved is gone", "correct name_or_path there"),
    ),
    "evaluate without dev": (lambda p: p.eval("--dev", ""), ("dev: name the similarity file", "--dev FILE")),
    "evaluate without tests": (lambda p: p.eval("--tests"), ("tests: name at least one", "--tests FILE")),
    "evaluate on dev": (dev_is_test, ("copy.jsonl holds the pairs of", "dev.jsonl", "leakage")),
    "evaluate no such run": (lambda p: p.eval("--tuned", str(p.path / "none")), ("none", "no such folder")),
    "evaluate an unknown prompt": (
        lambda p: p.eval("--systems.prompts", "promteol"),
        ("'promteol'", "did you mean prompteol?"),
    ),
    "evaluate a layer out of range": (
        lambda p: p.eval("--systems.layers", "7"),
        ("layer 7", "hidden states 0 to 3"),
    ),
    "report where a file is": (
        lambda p: p.eval("--output_dir", p.file("taken", "x")),
        ("taken", "a file is in the way", "--output_dir"),
    ),
}


@pytest.fixture(autouse=True)
def no_network_and_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good inputs, models and a finished run."""
    shelf = tmp_path_factory.mktemp("shelf")
    write_jsonl(shelf / "pairs.jsonl", word_pairs(12))
    write_jsonl(shelf / "dev.jsonl", graded_pairs(8))
    write_jsonl(shelf / "test.jsonl", graded_pairs(8, seed=2))
    model = {"name_or_path": str(shelved(shelf, "llama")), "max_length": 64, "device": "cpu"}
    training = {
        "model": model,
        "lora": {"rank": 2, "dropout": 0.1},
        "data": [{"path": str(shelf / "pairs.jsonl")}],
        "optim": {"steps": STEPS},
        "batch": {"size": 4},
        "checkpoint": {"every": 2, "resume": "never"},
        "eval": {"dev": str(shelf / "dev.jsonl"), "every": 2, "after_training": False},
    }
    evaluation = {
        "model": model,
        "dev": str(shelf / "dev.jsonl"),
        "tests": [str(shelf / "test.jsonl")],
        "systems": {"whiten": False},
    }
    (shelf / "train.yaml").write_text(json.dumps(training))
    (shelf / "eval.yaml").write_text(json.dumps(evaluation))
    assert main(["train", str(shelf / "train.yaml"), "--output_dir", str(shelf / "run")]) == 0
    return shelf


@pytest.fixture
def place(tmp_path: Path, shelf: Path) -> Iterator[Place]:
    place = Place(tmp_path, shelf)
    shutil.copytree(shelf / "run", place.run)
    yield place
    for lock in place.locks:
        lock.close()


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    build, words = CASES[name]
    argv = build(place)
    before = place.snapshot()
    capsys.readouterr()
    assert main(argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("dec2vec: error: ") and line.count("\n") == 1 and line.endswith("\n"), line
    assert [word for word in words if word not in line] == [], line
    assert_intact(before, place.snapshot())


def assert_intact(before: dict[Path, bytes], after: dict[Path, bytes]) -> None:
    """What was there is there, byte for byte, and no half-written file lies about."""
    assert [str(path) for path, content in before.items() if after.get(path) != content] == []
    assert [str(path) for path in after if "tmp" in path.name] == []


def test_torn_checkpoint_is_passed_over(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Not an error: the run goes on from the checkpoint before it, to the same adapter."""
    adapter = place.run / "adapter" / "adapter_model.safetensors"
    expected = adapter.read_bytes()
    adapter.unlink()
    halve(place.checkpoint() / "adapter.safetensors")
    with caplog.at_level(logging.WARNING):
        assert main(place.resume()) == 0
    assert "step-000004 is damaged (adapter.safetensors has" in caplog.text
    assert adapter.read_bytes() == expected


def test_tokenizer_without_pad_is_good_enough(place: Place) -> None:
    assert main(place.model("no_pad", "--optim.steps", "1")) == 0


def test_one_target_by_name_alone(place: Place) -> None:
    assert main(place.train("--optim.steps", "1", "--lora.targets", "q_proj")) == 0
    written = json.loads((place.run / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["q_proj"]


def test_report_of_mapped_columns_and_little_room(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What only the evaluation after training meets must not end a run: other columns, prompts that are too long."""
    rows = [{"query": row["anchor"], "answer": row["positive"]} for row in word_pairs(12)]
    pairs = str(write_jsonl(place.path / "mapped.jsonl", rows))
    mapped = ["--data.0.path", pairs, "--data.0.anchor", "query", "--data.0.positive", "answer"]
    evaluated = ["--eval.tests", str(place.shelf / "test.jsonl"), "--eval.after_training", "--model.max_length", "40"]
    assert main(place.train("--optim.steps", "1", *mapped, *evaluated)) == 0
    assert "knowledge_enhancement is left out: max_length 40" in caplog.text
    report = json.loads((place.run / "report" / "report.json").read_text())
    assert [source["training"] for source in report["overlap"]] == [pairs] * 2
    systems = {result["system"] for result in report["results"]}
    assert "tuned/run" in systems and not any("knowledge_enhancement" in system for system in systems)


def test_nothing_to_fit_the_whitening_on(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Known only when the run is trained: one line all the same, and the same command goes on without whitening."""
    texts = [text for row in word_pairs(12) for text in row.values()]
    rows = [{"sentence1": text, "sentence2": texts[n - 1], "score": n} for n, text in enumerate(texts)]
    dev = ["--eval.dev", str(write_jsonl(place.path / "same.jsonl", rows))]
    assert main(place.train(*dev, "--export.whiten")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dec2vec: error: export.whiten") and "--export.whiten false" in last
    assert main(place.resume(*dev)) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_during_a_checkpoint(
    number: int, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends in one line; its earlier checkpoint is whole, and with space again it goes on to the same end."""
    expected = place.checkpoint().joinpath("adapter.safetensors").read_bytes()
    shutil.rmtree(place.checkpoint())
    before = place.snapshot()

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(number, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train.checkpoint, "save_file", full)
        assert main(place.resume()) == 2
    *progress, last = capsys.readouterr().err.splitlines()
    assert last.startswith("dec2vec: error: cannot write checkpoint") and "the disk is full; free some space" in last
    assert not any("Traceback" in line for line in progress)
    logs = (place.run / "metrics.jsonl", place.run / "config.yaml")
    assert_intact({path: data for path, data in before.items() if path not in logs}, place.snapshot())
    assert main(place.resume()) == 0
    assert place.checkpoint().joinpath("adapter.safetensors").read_bytes() == expected


REAL = ("encoder-only model", "weights cut short", "unknown LoRA target", "checkpoint of another configuration")


def test_nothing_else_is_said_outside_of_pytest(place: Place) -> None:
    """In a process of its own, where the libraries' loggers and warnings reach stderr: a line for each, no more."""
    spoilt = [CASES[name][0](place) for name in REAL]
    code = (
        "import json, sys; from dec2vec.cli import main; sys.exit([main(a) for a in json.loads(sys.argv[1])] != [2]*4)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spoilt)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("dec2vec: error: ")] == []
    assert len(lines) == len(REAL)
