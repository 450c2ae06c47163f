"""A teacher's vectors: those of the library itself, computed once, never another teacher's or another text's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW

import train.teachers.teacher_vectors
import train.teachers.vector_blocks
from dec2vec.config.model import ModelConfig
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING, tuned_encoder
from tests.helpers import WORDS
from tests.training_setup import data_of
from train.config import LoraConfig, TrainConfig
from train.data.batch import Asked
from train.data.table import SourceTable
from train.export.save import save_adapter
from train.losses.checks import check_dropout
from train.options.losses import LossConfig
from train.teachers.teacher_vectors import load_teacher, load_teachers

TEXTS = ["red dog", "old cat sleeps", "blue bird sings", "young man eats", "red dog"]
ASKED: list[Asked] = [(text, "query") for text in TEXTS]


def as_queries(texts: Sequence[str]) -> dict[Asked, str]:
    """Each text asked for as it stands in the data."""
    return {(text, "query"): text for text in texts}


def bag_of_words(folder: Path, weight: float = 1.0) -> str:
    weights = {word: weight + number for number, word in enumerate(WORDS)}
    SentenceTransformer(modules=[BoW(vocab=WORDS, word_weights=weights)]).save(str(folder))
    return str(folder)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of a teacher embedded."""
    counts: list[int] = []
    load = train.teachers.teacher_vectors._encoder

    def counting(teacher: str, device: str) -> train.teachers.vector_blocks.Encode:
        encode = load(teacher, device)
        return lambda texts, side: (counts.append(len(texts)), encode(texts, side))[1]

    monkeypatch.setattr(train.teachers.teacher_vectors, "_encoder", counting)
    return counts


def test_vectors_are_the_librarys_and_computed_once(
    tmp_path: Path, embedded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.teachers.vector_blocks, "BLOCK", 3)
    path = bag_of_words(tmp_path / "teacher")
    expected = SentenceTransformer(path).encode(TEXTS, normalize_embeddings=True)
    found = load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu")
    np.testing.assert_allclose(found.of(ASKED).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(found.of(list(as_queries(TEXTS[3:1:-1]))).numpy(), expected[3:1:-1], rtol=1e-6)
    assert embedded == [3, 1]  # equal texts once, in blocks
    again = load_teacher(
        path, as_queries(TEXTS[::-1]), tmp_path / "cache", device="cpu"
    )  # another order, the same texts
    np.testing.assert_array_equal(again.of(ASKED), found.of(ASKED))
    assert isinstance(again.vectors, np.memmap)
    assert embedded == [3, 1]
    assert not list((tmp_path / "cache").glob("*.part"))
    with pytest.raises(KeyError, match="green"):
        found.of([*ASKED, ("green", "query")])


def test_another_teacher_or_text_is_computed_anew(tmp_path: Path, embedded: list[int]) -> None:
    path = bag_of_words(tmp_path / "teacher")
    before = load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu").of(ASKED)
    load_teacher(path, as_queries([*TEXTS, "green"]), tmp_path / "cache", device="cpu")
    bag_of_words(tmp_path / "teacher", weight=3.0)  # in the same place
    after = load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu").of(ASKED)
    assert embedded == [4, 5, 4]
    assert not np.allclose(before, after)


def test_a_write_that_broke_off_is_no_cache(
    tmp_path: Path, embedded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bag_of_words(tmp_path / "teacher")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot cache the teacher's vectors"):
        patch.setattr(train.teachers.vector_blocks, "fsync_directory", lambda path: _full())
        patch.setattr(Path, "replace", lambda path, target: _full())
        load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu")
    assert not list((tmp_path / "cache").glob("*.npy"))
    found = load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu")
    assert embedded == [4]  # all blocks were there
    expected = SentenceTransformer(path).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(found.of(ASKED).numpy(), expected, rtol=1e-6)


def _full() -> None:
    raise OSError(28, "full")


MANY = [f"{first} {second}" for first in WORDS[:4] for second in WORDS[4:7]]


@pytest.mark.parametrize("cut", [0, 1, 70])
def test_a_killed_call_is_gone_on_with_behind_its_last_block(
    tmp_path: Path, embedded: list[int], monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """The file of an undisturbed call, bit for bit; a block that was written in part is computed again."""
    monkeypatch.setattr(train.teachers.vector_blocks, "BLOCK", 3)
    path, texts = bag_of_words(tmp_path / "teacher"), as_queries(MANY)
    whole = load_teacher(path, texts, tmp_path / "whole", device="cpu")
    assert embedded == [3, 3, 3, 3]
    (file,) = (tmp_path / "whole").glob("*.npy")
    (tmp_path / "cache").mkdir()
    row, content = 4 * whole.dimension, file.read_bytes()
    (tmp_path / "cache" / f"{file.stem}.part").write_bytes(content[: len(content) - 3 * row - cut])
    (tmp_path / "cache" / "another.part").write_bytes(b"of other texts")
    again = load_teacher(path, texts, tmp_path / "cache", device="cpu")
    assert embedded[4:] == ([3] if cut == 0 else [3, 3])
    assert (tmp_path / "cache" / file.name).read_bytes() == content
    np.testing.assert_array_equal(again.vectors, whole.vectors)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", file.name]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00v", b"not an array at all"])
def test_a_damaged_part_is_computed_anew(tmp_path: Path, embedded: list[int], content: bytes) -> None:
    path = bag_of_words(tmp_path / "teacher")
    found = load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu")
    (file,) = (tmp_path / "cache").glob("*.npy")
    file.unlink()
    file.with_suffix(".part").write_bytes(content)
    again = load_teacher(path, as_queries(TEXTS), tmp_path / "cache", device="cpu")
    np.testing.assert_array_equal(again.vectors, found.vectors)
    assert embedded == [4, 4]


def test_only_the_rows_that_are_used_are_embedded(tmp_path: Path, embedded: list[int]) -> None:
    loss = LossConfig(kind="embed_distill", teacher=bag_of_words(tmp_path / "teacher"))
    rows = [("red dog", "old cat"), ("blue bird", "old cat"), ("man", "young")]
    config = TrainConfig(loss=loss, model=ModelConfig(device="cpu"))
    (found,) = load_teachers(config, data_of(SourceTable("pairs", rows)), tmp_path / "cache", [0, 2]).values()
    assert embedded == [4] and len(found.keys) == 4
    assert found.dimension == len(WORDS)
    with pytest.raises(KeyError, match="blue bird"):
        found.of([("blue bird", "query")])


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_one_of_our_adapters_is_a_teacher(tmp_path: Path, embedded: list[int]) -> None:
    save_adapter(tuned_encoder(tmp_path / "base"), tmp_path / "adapter")
    expected = Encoder.load(ModelConfig(name_or_path=str(tmp_path / "adapter"), device="cpu")).encode(TEXTS)
    found = load_teacher(str(tmp_path / "adapter"), as_queries(TEXTS), tmp_path / "cache", device="cpu")
    np.testing.assert_allclose(found.of(ASKED).numpy(), expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "base" / "config.json").write_text(
        (tmp_path / "base" / "config.json").read_text().replace("{", "{ ", 1), encoding="utf-8"
    )
    load_teacher(str(tmp_path / "adapter"), as_queries(TEXTS), tmp_path / "cache", device="cpu")
    assert embedded == [4, 4]  # another base under the same adapter


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_a_teacher_reads_the_data_s_own_texts_each_on_its_side(
    tmp_path: Path, embedded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student in lower case, a teacher in any: two texts that are one to the student are the first of the two."""
    monkeypatch.setattr(train.teachers.vector_blocks, "BLOCK", 3)
    save_adapter(tuned_encoder(tmp_path / "base", prompt="instruct"), tmp_path / "adapter")
    teacher = Encoder.load(ModelConfig(name_or_path=str(tmp_path / "adapter"), device="cpu"))
    loss = LossConfig(kind="distil_vectors", teacher=str(tmp_path / "adapter"))
    config = TrainConfig(model=ModelConfig(text_normalization="lower", device="cpu"), loss=loss)
    rows = [("Red Dog", "a CAT", "Old Man"), ("red dog", "Red Dog"), ("Blue", "a Bird")]

    def vectors_of(*texts: tuple[str, ...]) -> dict[Asked, np.ndarray]:
        found = load_teachers(config, data_of(SourceTable("pairs", list(texts))), tmp_path / "cache")
        (vectors,) = found.values()
        return {one: vectors.of([one])[0].numpy() for one in expected}

    expected: dict[Asked, str] = {
        ("red dog", "query"): "Red Dog",
        ("red dog", "document"): "Red Dog",
        ("a cat", "document"): "a CAT",
        ("old man", "document"): "Old Man",
        ("blue", "query"): "Blue",
        ("a bird", "document"): "a Bird",
    }
    for one, vector in vectors_of(*rows).items():
        np.testing.assert_allclose(vector, teacher.encode([expected[one]], side=one[1])[0], rtol=1e-5, atol=1e-6)
    as_query, as_document = (teacher.encode(["Red Dog"], side=side)[0] for side in ("query", "document"))
    lower = teacher.encode(["red dog"])[0]
    assert min(np.abs(as_query - as_document).max(), np.abs(as_query - lower).max()) > 1e-3  # the comparison can fail
    assert sum(embedded) == 6
    other = vectors_of(*rows[1:], rows[0])  # the first of `red dog` is another one
    np.testing.assert_allclose(other["red dog", "query"], lower, rtol=1e-5, atol=1e-6)
    assert sum(embedded) == 12


def test_a_teacher_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; download a teacher"):
        load_teacher(str(tmp_path / "none"), as_queries(TEXTS), tmp_path / "cache", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded as an encoder"):
        load_teacher(str(tmp_path / "empty"), as_queries(TEXTS), tmp_path / "cache", device="cpu")


NO_DROPOUT = {"attention_dropout": 0.0, "layerdrop": 0.0, "summary_first_dropout": 0.1, "classifier_dropout": 0.1}


@pytest.mark.parametrize(
    ("architecture", "lora"),
    [
        (NO_DROPOUT, LoraConfig(dropout=0.05)),
        (NO_DROPOUT | {"attention_dropout": 0.1}, LoraConfig()),
        (NO_DROPOUT | {"resid_pdrop": 0.1}, LoraConfig(method="full")),
    ],
)
def test_views_that_differ_are_taken(architecture: dict[str, object], lora: LoraConfig) -> None:
    check_dropout(architecture, lora, "data.0 (wiki.txt)")


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(method="full", dropout=0.1)])
def test_views_that_would_be_equal_are_refused(lora: LoraConfig) -> None:
    with pytest.raises(UserError, match=r"data.0 \(wiki.txt\): .* every dropout is 0; add .*lora.dropout 0.1"):
        check_dropout(NO_DROPOUT, lora, "data.0 (wiki.txt)")
