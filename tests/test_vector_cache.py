"""Cached vectors are the encoder's own, whatever was there before, and nothing is embedded twice."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from dec2vec import Encoder
from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.fingerprint import fingerprint
from dec2vec.prompts.prompt import Side
from eval.cache.vector_cache import CachedEncoder, VectorCache
from eval.cache.vector_file import KEY_BYTES, VectorFile
from tests.fake_encoder import FakeEncoder
from tests.helpers import tiny_model_folder

VIEWS = [View("mean", 0), View("mean", 0.5), View("last", 2)]
TEXTS = ["a b", "c", "", "a b", "\ud800 lone"]


def same(cached: CachedEncoder, texts: list[str], views: list[View], prompt: str = "bare") -> None:
    plain = FakeEncoder().encode_views(texts, views, EncodeOptions(prompt))
    found = cached.encode_views(texts, views, EncodeOptions(prompt))
    assert list(found) == views
    for view in views:
        np.testing.assert_array_equal(found[view], plain[view])


def test_second_asking_embeds_nothing(tmp_path: Path) -> None:
    cached = CachedEncoder(FakeEncoder(), tmp_path)
    same(cached, TEXTS, VIEWS)
    assert cached.passes == {"bare": 4}  # distinct texts
    again = CachedEncoder(FakeEncoder(), tmp_path)
    same(again, TEXTS[::-1], VIEWS[::-1])
    assert not again.passes


def test_only_what_is_missing_is_embedded(tmp_path: Path) -> None:
    cached = CachedEncoder(FakeEncoder(), tmp_path)
    same(cached, TEXTS[:2], VIEWS[:1])
    same(cached, TEXTS, VIEWS[:1])
    assert cached.passes == {"bare": 4}
    same(cached, TEXTS[:1], VIEWS)  # a new view costs a pass
    same(cached, TEXTS[:1], VIEWS, prompt="prompteol")  # and so does a prompt
    assert cached.passes == {"bare": 5, "prompteol": 1}


def test_sides_are_kept_apart(tmp_path: Path) -> None:
    cached = CachedEncoder(FakeEncoder(), tmp_path)
    cached.encode_views(["a"], VIEWS, EncodeOptions("instruct", side="query"))
    cached.encode_views(["a"], VIEWS, EncodeOptions("instruct", side="document"))
    assert cached.passes == {"instruct": 2}


@pytest.mark.parametrize("lost", range(1, 2 * KEY_BYTES + 1, 7))
@pytest.mark.parametrize("suffix", ["keys", "f32"])
def test_torn_tail_is_embedded_again(tmp_path: Path, suffix: str, lost: int) -> None:
    same(CachedEncoder(FakeEncoder(), tmp_path), TEXTS, VIEWS)
    torn = next(path for path in tmp_path.rglob(f"last@2*.{suffix}"))
    torn.write_bytes(torn.read_bytes()[:-lost])
    mended = CachedEncoder(FakeEncoder(), tmp_path)
    same(mended, TEXTS, VIEWS)
    assert 1 <= mended.passes["bare"] < 4
    assert torn.stat().st_size == 4 * (KEY_BYTES if suffix == "keys" else 4 * 16)


@pytest.mark.parametrize("lost", [1, 4, 63])
def test_torn_tail_is_no_trouble_to_a_reader(tmp_path: Path, lost: int) -> None:
    """Killed in an append: what was whole before is read without writing anything."""
    file = VectorFile(tmp_path, "mean@0")
    keys, rows = [bytes([index]) * KEY_BYTES for index in range(3)], np.arange(48, dtype=np.float32).reshape(3, 16)
    file.append(keys, rows)
    file.commit()
    path = tmp_path / "mean@0.16.f32"
    path.write_bytes(path.read_bytes()[:-lost])
    np.testing.assert_array_equal(VectorFile(tmp_path, "mean@0").read(keys[:2]), rows[:2])
    path.write_bytes(path.read_bytes() + b"half a row")
    np.testing.assert_array_equal(VectorFile(tmp_path, "mean@0").read(keys[:2]), rows[:2])


def test_rows_reach_the_disk_before_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the commit: the rows are there, no key says so, and the next process writes over them."""
    synced: list[str] = []
    monkeypatch.setattr(
        "eval.cache.vector_file.os.fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name)
    )
    file = VectorFile(tmp_path, "mean@0")
    keys, rows = [bytes([index]) * KEY_BYTES for index in range(3)], np.arange(48, dtype=np.float32).reshape(3, 16)
    file.append(keys[:2], rows[:2])
    assert (tmp_path / "mean@0.16.f32").stat().st_size == 2 * 64 and not (tmp_path / "mean@0.keys").exists()
    assert len(VectorFile(tmp_path, "mean@0")) == 0 and synced == []
    file.commit()
    assert synced == ["mean@0.16.f32"] and len(VectorFile(tmp_path, "mean@0")) == 2
    file.commit()
    assert len(synced) == 1, "nothing new"
    killed = VectorFile(tmp_path, "mean@0")
    killed.append(keys[2:], -rows[2:])
    again = VectorFile(tmp_path, "mean@0")
    again.append(keys[2:], rows[2:])
    again.commit()
    np.testing.assert_array_equal(VectorFile(tmp_path, "mean@0").read(keys), rows)


def test_an_interrupted_stream_keeps_what_it_had(tmp_path: Path) -> None:
    class Interrupted(FakeEncoder):
        def iter_views(self, *args: Any, **options: Any) -> Iterator[Any]:
            for count, batch in enumerate(super().iter_views(*args, **options)):
                if count == 2:
                    raise KeyboardInterrupt
                yield batch

    texts = [f"text {index}" for index in range(150)]
    with pytest.raises(KeyboardInterrupt):
        CachedEncoder(Interrupted(), tmp_path).encode_views(texts, VIEWS, EncodeOptions("bare"))
    again = CachedEncoder(FakeEncoder(), tmp_path)
    found, plain = (encoder.encode_views(texts, VIEWS, EncodeOptions("bare")) for encoder in (again, FakeEncoder()))
    for view in VIEWS:
        wide = plain[view].astype(np.float64)
        bound = 2.0**-11 * np.abs(wide - wide[:100].mean(axis=0)) + 1e-6
        assert (np.abs(found[view] - wide) <= bound).all() and (found[view] != plain[view]).any(), "half precision"
    assert again.passes == {"bare": 50}


def test_views_are_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedEncoder(FakeEncoder(), tmp_path)
    read: list[str] = []
    plain = VectorFile.read

    def counted(file: VectorFile, keys: Sequence[bytes]) -> np.ndarray:
        read.append(file._name)
        return plain(file, keys)

    found = cached.encode_views(TEXTS, VIEWS, EncodeOptions("bare"))
    monkeypatch.setattr(VectorFile, "read", counted)
    assert (len(found), list(found), read) == (3, VIEWS, [])
    assert found[VIEWS[1]].shape == (5, 16) and read == [str(VIEWS[1])]


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(VectorFile, "append", full)
    with pytest.raises(UserError, match=r"cannot cache vectors in .*the disk is full.*--cache ''"):
        CachedEncoder(FakeEncoder(), tmp_path).encode_views(["a"], VIEWS)


def test_prompts_are_known_by_what_they_write(tmp_path: Path) -> None:
    """Both sides of a bare prompt read alike and share their vectors; those of instruct do not."""
    encoder = Encoder.load(ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "model")), max_length=256))
    cached = CachedEncoder(encoder, tmp_path / "cache")
    views = [View("mean", 1)]
    for prompt, texts in (("bare", 1), ("instruct", 2), ("ck", 2)):
        for side in get_args(Side):
            found = cached.encode_views(["a cat"], views, EncodeOptions(prompt, side=side))[views[0]]
            plain = encoder.encode_views(["a cat"], views, EncodeOptions(prompt, side=side))[views[0]]
            np.testing.assert_allclose(found, plain, atol=1e-6)
        assert cached.passes[prompt] == texts, "an ensemble of two takes two passes a text"
    assert {prompt: cost.texts for prompt, cost in cached.costs.items()} == cached.passes
    bare, instruct = (cached.costs[prompt] for prompt in ("bare", "instruct"))
    assert bare.tokens == len(encoder.tokenize(["a cat"], prompt="bare")[0]) < instruct.tokens and bare.seconds > 0


def test_logits_are_not_kept(tmp_path: Path) -> None:
    path = tiny_model_folder(tmp_path / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    encoder = Encoder.load(ModelConfig(name_or_path=str(tmp_path / "model"), max_length=64))
    cached = CachedEncoder(encoder, tmp_path / "cache")
    views = [View("logits", -1), View("mean", 1)]
    found = cached.encode_views(["a cat"], views, EncodeOptions("bare"))
    for view, plain in encoder.encode_views(["a cat"], views, EncodeOptions("bare")).items():
        np.testing.assert_allclose(found[view], plain, atol=1e-6)
    assert [path.name for path in (tmp_path / "cache").rglob("*.f32")] == ["mean@1.16.f32"]


def test_rows_by_key(tmp_path: Path) -> None:
    file = VectorFile(tmp_path, "mean@0")
    with pytest.raises(KeyError):
        file.read([b"0" * KEY_BYTES])
    keys = [bytes([index]) * KEY_BYTES for index in range(3)]
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    file.append(keys[:2], rows[:2])
    file.append(keys, rows)
    file.commit()
    np.testing.assert_array_equal(VectorFile(tmp_path, "mean@0").read(keys[::-1]), rows[::-1])
    assert len(VectorFile(tmp_path, "mean")) == 0  # another name's file is not ours


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        VectorCache(tmp_path),
        pytest.raises(UserError, match="in use by another evaluation"),
        VectorCache(tmp_path),
    ):
        pass
    with VectorCache(tmp_path) as cache:
        assert cache.of(FakeEncoder(), "f" * 64).layer_count == 2


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="a file is in the way"), VectorCache(tmp_path / "cache"):
        pass


def test_fingerprint_is_of_content(tmp_path: Path) -> None:
    config = ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "one")), max_length=64)
    encoder = Encoder.load(config)
    (tmp_path / "one").rename(tmp_path / "two")
    moved = dataclasses.replace(config, name_or_path=str(tmp_path / "two"))
    assert fingerprint(Encoder.load(moved)) == fingerprint(encoder)
    read_elsewhere = dataclasses.replace(moved, pooling="mean", layer=1, prompt="prompteol")
    assert fingerprint(Encoder.load(read_elsewhere)) == fingerprint(encoder)
    shorter = dataclasses.replace(moved, max_length=16)
    assert fingerprint(Encoder.load(shorter)) != fingerprint(encoder)
    next(encoder.embedder.parameters()).data[0, 0] += 1e-3
    assert fingerprint(Encoder.load(moved)) != fingerprint(encoder)


@pytest.mark.parametrize("change", ["rms_norm_eps", "eos_token"])
def test_fingerprint_is_of_more_than_weights(tmp_path: Path, change: str) -> None:
    config = ModelConfig(name_or_path=str(tiny_model_folder(tmp_path)), max_length=64)
    before = fingerprint(Encoder.load(config))
    path = tmp_path / ("tokenizer_config.json" if change == "eos_token" else "config.json")
    options = json.loads(path.read_text())
    options[change] = "<pad>" if change == "eos_token" else 0.1
    path.write_text(json.dumps(options))
    assert fingerprint(Encoder.load(config)) != before


def wide_vectors(rows: int, spread: float) -> np.ndarray:
    """Means of thousands in a few dimensions, as states of decoders have them."""
    random = np.random.default_rng(0)
    mean = np.where(np.arange(48) % 16 == 0, 5000.0, 1.0)
    return (mean + spread * random.standard_normal((rows, 48))).astype(np.float32)


def test_half_precision_is_of_differences_from_the_mean(tmp_path: Path) -> None:
    """Rounded as they are, values of 5000 would lose what makes two texts different."""
    vectors, keys = wide_vectors(200, 0.5), [index.to_bytes(KEY_BYTES, "big") for index in range(200)]
    file = VectorFile(tmp_path, "mean@0")
    file.append(keys[:100], vectors[:100])
    file.append(keys[100:], vectors[100:])
    file.commit()
    found = VectorFile(tmp_path, "mean@0").read(keys)
    assert [path.name for path in tmp_path.glob("*.f*")] == ["mean@0.48.f16"]
    assert (tmp_path / "mean@0.48.f16").stat().st_size == 4 * 48 + 200 * (2 * 48 + 2)
    differences = np.abs(vectors.astype(np.float64) - vectors[:100].mean(axis=0, dtype=np.float64))
    assert (np.abs(found - vectors) <= 2.0**-11 * differences + 5e-4).all(), "5e-4: float32 itself at 5000"
    plain = np.abs(vectors.astype(np.float16).astype(np.float32) - vectors).max()
    assert plain > 1000 * np.median(np.abs(found - vectors))


def test_vectors_too_close_for_it_are_kept_as_they_are(tmp_path: Path) -> None:
    """All texts but a few in one place: the mean is far from them, compared with their distances."""
    vectors = wide_vectors(100, 1e-2)
    vectors[::2, :24] += 40.0
    keys = [index.to_bytes(KEY_BYTES, "big") for index in range(100)]
    file = VectorFile(tmp_path, "last@1")
    file.append(keys, vectors)
    file.commit()
    np.testing.assert_array_equal(VectorFile(tmp_path, "last@1").read(keys), vectors)
    assert [path.name for path in tmp_path.glob("*.f*")] == ["last@1.48.f32"]


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_what_is_not_finite_stays_so(tmp_path: Path, broken: float) -> None:
    vectors, keys = wide_vectors(101, 0.5), [index.to_bytes(KEY_BYTES, "big") for index in range(101)]
    vectors[100, 3] = broken
    file = VectorFile(tmp_path, "mean@0")
    file.append(keys[:100], vectors[:100])
    file.append(keys[100:], vectors[100:])
    found = file.read(keys)
    assert (tmp_path / "mean@0.48.f16").exists()
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(vectors))
    np.testing.assert_allclose(found[:, 4:], vectors[:, 4:], atol=2e-3)


@pytest.mark.parametrize("left", [0, 7, 4 * 48])
def test_a_file_torn_in_its_beginning_is_begun_anew(tmp_path: Path, left: int) -> None:
    vectors, keys = wide_vectors(64, 0.5), [index.to_bytes(KEY_BYTES, "big") for index in range(64)]
    file = VectorFile(tmp_path, "mean@0")
    file.append(keys, vectors)
    file.commit()
    path = tmp_path / "mean@0.48.f16"
    path.write_bytes(path.read_bytes()[:left])
    again = VectorFile(tmp_path, "mean@0")
    assert len(again) == 0
    again.append(keys, vectors)
    again.commit()
    np.testing.assert_allclose(VectorFile(tmp_path, "mean@0").read(keys), vectors, atol=2e-3)
