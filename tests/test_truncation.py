"""How many texts `max_length` cuts: every verb says it, and each distinct text counts once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dec2vec import Encoder, ModelConfig, cli
from dec2vec.prompts.cut_texts import CutTexts
from tests.helpers import tiny_model_folder, write_jsonl

LIMIT = 24
LONG = [f"the old dog number {number} runs fast and eats " * 4 for number in range(3)]
SHORT = ["a dog", "a cat", "two birds"]
TEXTS = [*SHORT, *LONG, LONG[0], SHORT[0]]
"""Six different ones, of which three are cut; two are repeated."""
SAID = "3 of 6 different texts are longer than max_length (24 tokens with their prompt)"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model_folder(tmp_path_factory.mktemp("truncation") / "model")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    rows = [{"generated": one, "reference": other} for one, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    write_jsonl(
        tmp_path / "train.jsonl", [{"anchor": f"man {row}", "positive": text} for row, text in enumerate(TEXTS)]
    )
    return tmp_path


def encoder_of(model: Path, max_length: int, prompt: str = "bare") -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(model), max_length=max_length, prompt=prompt, device="cpu"))


def said(argv: Sequence[str], model: Path, capsys: pytest.CaptureFixture[str], max_length: int = LIMIT) -> list[str]:
    """The lines about texts that were cut."""
    assert cli.main([*argv, "--device", "cpu", "--prompt", "bare", "--max_length", str(max_length)]) == 0
    return [line for line in capsys.readouterr().err.splitlines() if "max_length" in line]


def test_every_verb_says_it_once(files: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, name = str(files / "t.txt"), ["--model", str(model)]
    argv = {
        "encode": ["encode", *name, "--input", texts, "--output", str(files / "v.npy")],
        "shards": ["encode", *name, "--input", texts, "--output", str(files / "s"), "--shard_rows", "6"],
        "dedup": ["dedup", texts, *name, "--output", str(files / "d.jsonl")],
        "outliers": ["outliers", texts, *name, "--output", str(files / "o.jsonl")],
        "score": ["score", *name, "--input", str(files / "pairs.jsonl"), "--output", str(files / "p.jsonl")],
        "mine": ["mine", str(files / "train.jsonl"), *name, "--output", str(files / "m.jsonl"), "--negatives", "1"],
    }
    argv["score"] += ["--threshold", "1.0"]
    found = {verb: said(words, model, capsys) for verb, words in argv.items()}
    assert all(len(lines) == 1 for lines in found.values())
    assert all(SAID in found[verb][0] for verb in ("encode", "dedup", "outliers", "score"))
    assert "4 of 8 different texts" in found["shards"][0], "each distinct text of a shard"
    assert f"{model}: 3 of 14 different texts" in found["mine"][0]
    assert said(argv["encode"], model, capsys, 200) == said(argv["mine"], model, capsys, 200) == []
    rows = [json.loads(line) for line in (files / "p.jsonl").read_text().splitlines()]
    assert [row["usable"] == "yes" for row in rows] == [row["generated"] == row["reference"] for row in rows]


def test_search(files: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors, index = str(files / "v.npy"), str(files / "i")
    said(["encode", "--model", str(model), "--input", str(files / "t.txt"), "--output", vectors], model, capsys)
    assert cli.main(["index", vectors, "--output", index]) == 0
    search = ["search", index, "--model", str(model), "--queries", str(files / "t.txt")]
    [line] = said([*search, "--output", str(files / "h.jsonl")], model, capsys)
    assert SAID in line
    rows = [json.loads(line) for line in (files / "h.jsonl").read_text().splitlines()]
    assert max(row["cosine"] for row in rows) <= 1


@pytest.mark.parametrize("prompt", ["bare", "prompteol", "echo", "instruct"])
def test_counts_are_those_of_texts_whose_ids_differ_with_more_room(model: Path, prompt: str) -> None:
    """While embedding and when asked, with the prompt, for texts that just fit and that just don't."""
    texts = ["dog " * count for count in range(1, 90, 2)]
    short, long = encoder_of(model, 90, prompt), encoder_of(model, 256, prompt)
    expected = [one != other for one, other in zip(short.tokenize(texts), long.tokenize(texts), strict=True)]
    assert short.is_cut(texts) == expected and 0 < sum(expected) < len(texts)
    short.cut_texts = CutTexts()
    short.encode([*texts, *texts[-3:]])
    short.encode(texts, side="document")
    assert (short.cut_texts.cut, short.cut_texts.texts) == (sum(expected), len(texts))


def test_of_an_ensemble_a_text_is_cut_if_one_of_its_prompts_cuts_it(model: Path) -> None:
    texts = ["dog " * count for count in range(5, 200, 5)]
    encoder = encoder_of(model, 480, "metaeol")
    members = [encoder._wrap(member).is_cut(texts) for member in encoder.ensemble().members]
    expected = np.any(members, axis=0).tolist()
    assert encoder.is_cut(texts) == expected and 0 < sum(expected) < len(texts)
    assert len({sum(flags) for flags in members}) > 1, "prompts of different lengths"


def test_settled_counts_are_added() -> None:
    cuts = CutTexts()
    assert cuts.line(9) == ""
    cuts.add(["a", "b"], [True, False])
    cuts.settle()
    cuts.add(["a", "c", "c"], [True, False, False])
    assert (cuts.texts, cuts.cut) == (4, 2)
    assert cuts.line(9).startswith("2 of 4 different texts are longer than max_length (9 tokens")
