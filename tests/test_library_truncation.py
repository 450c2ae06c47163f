"""Texts that models of sentence-transformers cut, which the library does in silence: in `mine` and among baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec import cli
from dec2vec.prompts.library_cut import cut_by_library, library_limit
from eval.config import EvalConfig, SystemsConfig
from eval.run import evaluate
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import tiny_model_folder, write_jsonl

LIMIT = 30
TEXTS = ["dog " * count for count in range(1, 30)]


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder with mean pooling, a prompt for documents, and a limit."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("library")
    word = Transformer(str(tiny_model_folder(folder / "decoder")), max_seq_length=LIMIT)
    modules = [word, Pooling(word.get_embedding_dimension())]
    model = SentenceTransformer(modules=modules, prompts={"document": "dog dog "}, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def test_a_text_is_cut_just_when_more_room_changes_its_vector(library_folder: Path) -> None:
    short, long = load(library_folder), load(library_folder)
    long.max_seq_length = 200
    assert library_limit(short) == LIMIT
    for prompt, encode in (("query", "encode_query"), ("document", "encode_document")):
        one, other = (getattr(model, encode)(TEXTS, show_progress_bar=False) for model in (short, long))
        expected = [not np.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True)]
        assert cut_by_library(short, TEXTS, prompt) == expected and 0 < sum(expected) < len(TEXTS)
    assert sum(cut_by_library(short, TEXTS, "document")) > sum(cut_by_library(short, TEXTS, None))
    assert not any(cut_by_library(long, TEXTS, "document"))


def test_mine_says_it(library_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [{"anchor": f"man {n}", "positive": text} for n, text in enumerate(TEXTS)]
    pairs, output = write_jsonl(tmp_path / "p.jsonl", rows), str(tmp_path / "m.jsonl")
    argv = ["mine", str(pairs), "--model", str(library_folder), "--output", output, "--negatives", "1", "--ratio", "1"]
    assert cli.main([*argv, "--device", "cpu", "--margin", "0"]) == 0
    cut = sum(cut_by_library(load(library_folder), TEXTS, "document"))
    [line] = [line for line in capsys.readouterr().err.splitlines() if "max_length" in line]
    assert f"{cut} of {2 * len(TEXTS)} different texts are longer than max_length ({LIMIT} tokens" in line


def test_a_baseline_is_counted_like_a_system(library_folder: Path, tmp_path: Path) -> None:
    dev = write_similarity(tmp_path / "dev.jsonl", 40, 1)
    rows = [json.loads(line) for line in write_similarity(tmp_path / "t.jsonl", 30, 2).read_text().splitlines()]
    rows[0]["sentence1"] = TEXTS[-1]
    test = write_jsonl(tmp_path / "t.jsonl", rows)
    config = EvalConfig(
        dev=str(dev),
        tests=(str(test),),
        baselines=(str(library_folder),),
        systems=SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",)),
        bootstrap=100,
    )
    report = evaluate(config, base=FakeEncoder(), tuned={}, progress=False)
    [found] = [row for row in report.truncation if row.task == "t" and row.max_length == LIMIT]
    texts = list(dict.fromkeys(str(row[side]) for row in rows for side in ("sentence1", "sentence2")))
    cut = sum(cut_by_library(load(library_folder), texts, None))
    assert (found.texts, found.cut, found.run, found.prompt) == (len(texts), cut, None, None) and cut > 0
