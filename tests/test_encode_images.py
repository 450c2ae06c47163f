"""`dec2vec encode` on images: a folder, and columns of paths, bytes and `datasets` images, against single calls."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from dec2vec import Encoder, ModelConfig, UserError, cli
from dec2vec.corpus.image_inputs import Source
from dec2vec.corpus.vector_files import open_vectors, write_vectors
from dec2vec.images.items import Item
from tests.bad_images import stored
from tests.vision_models import picture, tiny_vision_folder

TEXTS = ["a cat", "a dog", "a bird", "a house"]
SIZES = [(20, 20), (40, 24), (10, 30), (16, 16)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and pictures in a folder with another file."""
    root = tmp_path_factory.mktemp("encode")
    tiny_vision_folder(root / "model", "llava")
    (root / "pictures" / "more").mkdir(parents=True)
    for number, (width, height) in enumerate(SIZES):
        name = f"more/{number}.JPG" if number == 3 else f"{number}.png"
        picture(number, width, height).save(root / "pictures" / name, format="PNG")
    (root / "pictures" / "notes.md").write_text("notes")
    return root


@pytest.fixture(scope="module")
def expected(place: Path) -> NDArray[np.float32]:
    """The images alone, and each with its text."""
    encoder = Encoder.load(ModelConfig(name_or_path=str(place / "model"), autocast="off"))
    images = [picture(number, *size) for number, size in enumerate(SIZES)]
    both = [{"text": text, "image": image} for text, image in zip(TEXTS, images, strict=True)]
    return encoder.encode([*images, *both], progress=False)


def encode(place: Path, source: Path, output: Path, *options: str) -> NDArray[np.float32]:
    paths = ["--input", str(source), "--output", str(output), "--autocast", "off"]
    cli.main(["encode", "--model", str(place / "model"), *paths, *options])
    return open_vectors(output).everything()


def test_a_folder(
    place: Path, expected: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = encode(place, place / "pictures", tmp_path / "v.parquet")
    np.testing.assert_allclose(found, expected[:4], atol=1e-5)
    assert "1 file has no suffix of an image and is left out: notes.md" in capsys.readouterr().err
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    names = [Path(str(name)).name for name in table["image"].to_pylist()]
    assert names == ["0.png", "1.png", "2.png", "3.JPG"] and table["text"].to_pylist() == [""] * 4


def test_columns_of_paths_bytes_and_images(place: Path, expected: NDArray[np.float32], tmp_path: Path) -> None:
    paths = ["0.png", "1.png", "2.png", "more/3.JPG"]
    rows = [{"text": text, "photo": path} for text, path in zip(TEXTS, paths, strict=True)]
    table = place / "pictures" / "captions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = [(place / "pictures" / path).read_bytes() for path in paths]
    stored_bytes = tmp_path / "bytes.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "photo": content}), stored_bytes)
    saved = tmp_path / "saved"
    features = datasets.Features({"text": datasets.Value("string"), "photo": datasets.Image()})
    cells = [{"bytes": data, "path": None} for data in content]
    datasets.Dataset.from_dict({"text": TEXTS, "photo": cells}, features=features).save_to_disk(saved)
    for source in (table, stored_bytes, saved):
        found = encode(place, source, tmp_path / "v.npy", "--image_column", "photo")
        np.testing.assert_allclose(found, expected[4:], atol=1e-5)
    alone = encode(place, table, tmp_path / "v.npy", "--image_column", "photo", "--column", "")
    np.testing.assert_allclose(alone, expected[:4], atol=1e-5)
    table.unlink()


def source(path: Path, image_column: str | None = None, column: str = "text") -> Source:
    return Source(path, column, image_column, None, 64_000_000)


def test_a_table_stays_one_whatever_pictures_are_beside_it(tmp_path: Path) -> None:
    saved, files = tmp_path / "saved", tmp_path / "files"
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(saved)
    (files / "figures").mkdir(parents=True)
    (files / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for folder in (saved, files, files / "figures"):
        picture(0).save(folder / "plot.png")
    for folder in (saved, files):
        assert not source(folder).has_images and list(source(folder).everything().inputs) == TEXTS
    assert source(files / "figures").has_images and len(source(files / "figures").everything().inputs) == 1


def rows_of(path: Path, size: int | None, column: str = "text") -> list[tuple[str, bool]]:
    """Text of each input, and whether it has an image: read at once or in blocks."""
    table = source(path, "photo", column)
    blocks = [table.everything()] if size is None else list(table.blocks(size))
    return [(item.text, item.image is not None) for block in blocks for item in map(as_given, block.inputs)]


def as_given(value: object) -> Item:
    assert isinstance(value, Item)
    return value


def test_each_row_has_a_text_an_image_or_both_however_large_the_blocks_are(place: Path, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    path = tmp_path / "t.jsonl"
    rows = [{"photo": "0.png"}, {"photo": "0.png", "text": None}, {"photo": None, "text": "a"}]
    rows += [{"photo": {"bytes": None, "path": None}, "text": "b"}, {"photo": "0.png", "text": "c"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for size in (None, 1, 2, 9):
        assert rows_of(path, size) == [("", True), ("", True), ("a", False), ("b", False), ("c", True)]
    found = encode(place, path, tmp_path / "v.npy", "--image_column", "photo")
    encoder = Encoder.load(ModelConfig(name_or_path=str(place / "model"), autocast="off"))
    alone = encoder.encode(["a", {"text": "c", "image": picture(0)}], progress=False)
    np.testing.assert_allclose(found[[2, 4]], alone, atol=1e-5)
    for column, part in (("captoin", "captoin"), ("", r"t\.jsonl line 3: photo: there is no image")):
        for size in (None, 1, 9):
            with pytest.raises(UserError, match=part):
                rows_of(path, size, column)
    path.write_text(json.dumps({"photo": None, "text": None}) + "\n")
    with pytest.raises(UserError, match=r"t\.jsonl line 1: photo: there is no image"):
        rows_of(path, None)


def test_names_that_are_no_utf8_reach_a_parquet_output(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    block = source(tmp_path).everything()
    write_vectors(tmp_path / "v.parquet", block.texts, np.zeros((1, 2), dtype=np.float32), block.images)
    found = pyarrow.parquet.read_table(tmp_path / "v.parquet")["image"].to_pylist()
    assert found == [f"{tmp_path}/caf\ufffd.png"]


def test_a_renamed_image_changes_a_shard_that_names_it(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    first = source(tmp_path).everything()
    plain, named = (first.facts(with_paths=flag) for flag in (False, True))
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    second = source(tmp_path).everything()
    assert second.facts(with_paths=False) == plain != named != second.facts(with_paths=True)


@pytest.mark.slow
def test_shards_resume_and_see_a_changed_image(place: Path, expected: NDArray[np.float32], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        picture(number, *size).save(folder / f"{number}.png")
    found = encode(place, folder, tmp_path / "shards", "--shard_rows", "3")
    np.testing.assert_allclose(found, expected[:4], atol=1e-5)
    first, second = (tmp_path / "shards" / f"shard-0000{number}.npy" for number in (0, 1))
    before = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    picture(0, *SIZES[0]).save(folder / "3.png")
    again = encode(place, folder, tmp_path / "shards", "--shard_rows", "3")
    np.testing.assert_allclose(again, expected[[0, 1, 2, 0]], atol=1e-5)
    assert first.stat().st_mtime_ns == before[0] and second.stat().st_mtime_ns != before[1]
    settings = place / "model" / "preprocessor_config.json"
    content = settings.read_text()
    settings.write_text(json.dumps({**json.loads(content), "do_center_crop": False}))
    options = ["--input", str(folder), "--output", str(tmp_path / "shards"), "--shard_rows", "3", "--autocast", "off"]
    assert cli.main(["encode", "--model", str(place / "model"), *options]) == 2
    settings.write_text(content)


def test_mistakes_are_refused_before_the_model_is_loaded(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(stored(picture(0), "PNG"))
    (folder / "b.png").write_text("no picture")
    (tmp_path / "secret.png").write_bytes(stored(picture(0), "PNG"))
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "t.jsonl").write_text('{"photo": "https://a.org/b.png"}\n')
    (tables / "t.csv").write_text("photo\n../secret.png\n")
    (tmp_path / "t.txt").write_text("a\n")
    table = ["--input", str(tables / "t.csv"), "--image_column", "photo"]
    refusals: dict[str, list[str]] = {
        r"b\.png: not an image": ["--input", str(folder)],
        r"a\.png: 20 x 20 are 400 pixels": ["--input", str(folder), "--max_pixels", "399"],
        r"t\.csv row 2: photo \(\.\./secret\.png\): leads out of": table,
        r"t\.jsonl line 1: photo \(https://a\.org/b\.png\): no such image file .*; download it first": [
            *("--input", str(tables / "t.jsonl"), "--image_column", "photo")
        ],
        r"no column 'image'": ["--input", str(tables / "t.csv"), "--image_column", "image"],
        "image_root .*gone: there is no such folder": [*table, "--image_root", str(tmp_path / "gone")],
        "image_root is for images": ["--input", str(tmp_path / "t.txt"), "--image_root", str(tmp_path)],
        r"t\.txt has lines and no columns": ["--input", str(tmp_path / "t.txt"), "--image_column", "photo"],
    }
    for part, options in refusals.items():
        given = ["--model", str(tmp_path / "no-model"), "--output", str(tmp_path / "v.npy"), *options]
        assert cli.main(["encode", *given]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert re.search(part, line), line
    found = encode(
        place, tables / "t.csv", tmp_path / "v.npy", "--image_column", "photo", "--image_root", str(tmp_path)
    )
    assert found.shape == (1, 32)


def test_rows_of_parquet_are_counted_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"photo": [b"x"] * 3}), path)

    def read(*given: object, **options: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", read)
    assert source(path, "photo").count() == 3
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable parquet file"):
        source(path, "photo").count()
