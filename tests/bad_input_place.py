"""A folder with good inputs and a finished run, and the ways to spoil them: for tests/bad_input_cases.py."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    PreTrainedTokenizerFast,
    T5Config,
    ViTConfig,
)

from tests.helpers import (
    tiny_config,
    tiny_model_folder,
    tiny_tokenizer,
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


def base_in_output(place: Place) -> list[str]:
    base = place.path / "again" / "model"
    shutil.copytree(shelved(place.shelf, "llama"), base)
    return [*place.train("--model.name_or_path", str(base)), "--output_dir", str(base.parent)]


def foreign_model_folder(place: Place) -> list[str]:
    (place.path / "taken" / "model").mkdir(parents=True)
    place.file("taken/model/thesis.txt", "years of work")
    return [*place.train(), "--output_dir", str(place.path / "taken")]


def export_over_other_files(place: Place) -> list[str]:
    (place.path / "mine").mkdir()
    place.file("mine/thesis.txt", "years of work")
    return ["export", str(place.run), "--to", str(place.path / "mine")]


def dev_is_test(place: Place) -> list[str]:
    return place.eval("--tests", place.file("copy.jsonl", (place.shelf / "dev.jsonl").read_bytes()))


def dev_is_test_in_training(place: Place) -> list[str]:
    copy = place.file("copy.jsonl", (place.shelf / "dev.jsonl").read_bytes())
    return place.train("--eval.tests", copy, "--eval.after_training", "true")
