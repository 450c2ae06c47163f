"""`dec2vec export --static`: a StaticEmbedding of sentence-transformers with the encoder's vectors, or a refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from dec2vec.config.load import dump
from dec2vec.config.model import ModelConfig
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import TEXTS, tuned_encoder, whiten
from tests.published_folders import Folder, write_published
from train.config import TrainConfig
from train.export.export import ExportArgs, export_command
from train.export.save import save_adapter
from train.export.static import save_static

MORE = [*TEXTS, "A MAN PLAYS", "  two  spaces 12", "\n\nlines"]
STATIC = {"full": True, "pooling": "mean", "layer": 0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "english-8m": {"prompt": " {text}", "text_normalization": "lower"},
    "instruct": {"prompt": "instruct", "family": "qwen2"},
    "sts": {"prompt": "Query: {text}", "text_normalization": "sts"},
    "scaled": {"family": "gemma2", "whiten": True},
    "whitened": {"prompt": "instruct", "whiten": True, "text_normalization": "none"},
}
FRESH_PROCESS = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    model = SentenceTransformer(folder, device="cpu")
    np.save(folder + ".npy", np.concatenate([model.encode_query(texts), model.encode_document(texts)]))
print([name for name in ("llama", "qwen2", "gemma2") if f"transformers.models.{name}.modeling_{name}" in sys.modules])
"""


def static_encoder(folder: Path, **case: Any) -> Encoder:
    whitened = case.pop("whiten", False)
    encoder = tuned_encoder(folder / "base", **{**STATIC, **case})
    if whitened:
        whiten(encoder)
    return encoder


def library_vectors(folder: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    model = SentenceTransformer(str(folder), device="cpu")
    return np.concatenate([model.encode_query(MORE), model.encode_document(MORE)])


def encoder_vectors(encoder: Encoder) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([encoder.encode(MORE, side="query"), encoder.encode(MORE, side="document")])


def test_vectors_are_those_of_the_encoder_and_of_a_loop(tmp_path: Path) -> None:
    encoder = static_encoder(tmp_path, prompt=" {text}", text_normalization="lower")
    folder = save_static(encoder, tmp_path / "static", "mine")
    shutil.rmtree(tmp_path / "base")
    found = library_vectors(folder)
    np.testing.assert_allclose(found, encoder_vectors(encoder), atol=1e-6)
    table = load_file(folder / "0_StaticEmbedding" / "model.safetensors")["embedding.weight"].double().numpy()
    for text, vector in zip(["A MAN PLAYS", "a man plays"], found[[MORE.index("A MAN PLAYS")] * 2], strict=True):
        ids = encoder.tokenizer(" " + text.lower(), add_special_tokens=False)["input_ids"]
        mean = sum(table[token] for token in [*ids, encoder.tokenizer.eos_token_id]) / (len(ids) + 1)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    bare = SentenceTransformer(str(folder), device="cpu").encode(MORE, prompt="")
    assert np.abs(bare - found[: len(MORE)]).max() > 1e-3  # the prompt that adds EOS matters


@pytest.mark.slow
def test_every_kind_loads_in_a_fresh_process_without_a_decoder(tmp_path: Path) -> None:
    expected = {}
    for name, case in CASES.items():
        encoder = static_encoder(tmp_path / name, **case)
        save_static(encoder, tmp_path / f"{name}-static", name)
        expected[name] = encoder_vectors(encoder)
        shutil.rmtree(tmp_path / name)
    folders = [str(tmp_path / f"{name}-static") for name in CASES]
    command = [sys.executable, "-c", FRESH_PROCESS, json.dumps(MORE), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"  # the code of none of these decoders was imported
    for name, vectors in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}-static.npy"), vectors, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("default", [None, "query", "s2s"])
def test_prompts_of_a_published_base(tmp_path: Path, default: str | None) -> None:
    """`encode` has the default prompt of the base, and its further prompts are kept."""
    prompts = {"query": "Find: ", "document": "", "s2s": "same: ", "text": "more: "}

    def encoder(name: str | None) -> Encoder:
        base = write_published(tmp_path / str(name), Folder("mean_tokens", prompts=prompts, default=name))
        return Encoder.load(ModelConfig(name_or_path=str(base), layer=0, device="cpu", autocast="off"))

    mine = encoder(default)
    model = SentenceTransformer(str(save_static(mine, tmp_path / "static", "mine")), device="cpu")
    np.testing.assert_allclose(model.encode(MORE), mine.encode(MORE, progress=False), atol=1e-6)
    np.testing.assert_allclose(model.encode_query(MORE), mine.encode(MORE, side="query", progress=False), atol=1e-6)
    documents = mine.encode(MORE, side="document", progress=False)
    np.testing.assert_allclose(model.encode_document(MORE), documents, atol=1e-6)
    for name in ("s2s", "text"):
        expected = encoder(name).encode(MORE, progress=False)
        np.testing.assert_allclose(model.encode(MORE, prompt_name=name), expected, atol=1e-6)
        assert np.abs(expected - documents).max() > 1e-3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"layer": 1}, "pools mean at layer 1, but a static embedding is the mean of the input embeddings"),
        ({"pooling": "weighted_mean"}, "pools weighted_mean at layer 0"),
        ({"prompt": "is {text} it?", "tokenization": "separate"}, "has text after {text}"),
        ({"family": "gpt2"}, "a vector that differs by .*positions"),
    ],
)
def test_what_is_no_static_embedding_is_refused(tmp_path: Path, case: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        save_static(static_encoder(tmp_path, **case), tmp_path / "static", "mine")
    assert not (tmp_path / "static").exists()


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = static_encoder(tmp_path)
    run = tmp_path / "run"
    save_adapter(encoder, run / "adapter")
    (run / "config.yaml").write_text(dump(TrainConfig(model=encoder.config)), encoding="utf-8")
    assert export_command(ExportArgs(run=run, static=True)) == run / "static"
    assert f"static   {run / 'static'}" in capsys.readouterr().out
    export_command(ExportArgs(run=run, static=True))  # our own folder is replaced
    np.testing.assert_allclose(library_vectors(run / "static"), encoder_vectors(encoder), atol=1e-6)
    with pytest.raises(UserError, match="--merge is for a decoder's weights"):
        export_command(ExportArgs(run=run, static=True, merge=True))
    with pytest.raises(UserError, match="is not a static export of dec2vec"):
        export_command(ExportArgs(run=run, static=True, to=tmp_path / "base"))
