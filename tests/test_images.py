"""Untrusted images: what is wrong with one is said in one line, and what is right is read as seen."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from dec2vec.errors import UserError
from dec2vec.images import items
from dec2vec.images.items import Item, as_item, is_single, pixel_hash, windows
from dec2vec.images.opening import FORMATS, check_image, open_image
from dec2vec.images.places import SUFFIXES, cell_image, content_hash, images_of_folder, is_image_folder
from tests.bad_images import BAD, stored, tiff

LIMIT = 64_000_000
DOCS = Path(__file__).parents[1] / "docs" / "images.md"


def half(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left and blue on the right, which tells its orientation."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    build, part = BAD[kind]
    with pytest.raises(UserError) as error:
        open_image(build(tmp_path), "photos/7.jpg", LIMIT)
    line = str(error.value)
    assert part in line and line.startswith("photos/7.jpg: ") and "\n" not in line and len(line) < 250
    assert kind in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "kind",
    ["a bomb of 100 million pixels", "a TIFF with a tile of a billion pixels", "a GIF bomb", "an animated GIF", "text"],
)
def test_headers_show_what_is_wrong_without_decoding(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Any) -> None:
        raise AssertionError("decoded")

    for kind_of_file in (ImageFile.ImageFile, Image.Image):
        monkeypatch.setattr(kind_of_file, "load", load)
    build, part = BAD[kind]
    for read in (check_image, open_image):
        with pytest.raises(UserError, match=part.split(";")[0]):
            read(build(tmp_path), "a.png", LIMIT)


def test_strips_of_a_tiff_are_as_high_as_the_image_at_most() -> None:
    for rows in (8, 1 << 30):
        assert open_image(tiff(8, 8, zlib.compress(b"\0" * 64), (278, rows)), "a", LIMIT).size == (8, 8)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half().save(tmp_path / "a.png")

    def refuse(*given: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    for read in (check_image, open_image):
        with pytest.raises(UserError, match=r"a\.png: can't be read \(Permission denied\); make it readable"):
            read(tmp_path / "a.png", "a.png", LIMIT)


def test_the_limit_of_pixels_counts_for_images_of_pillow_too() -> None:
    assert open_image(half(), "a", 800).size == (40, 20)
    with pytest.raises(UserError, match=r"40 x 20 are 800 pixels, and model\.max_pixels is 799"):
        open_image(half(), "a", 799)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_camera_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = stored(half(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    found = open_image(content, "a", LIMIT)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    if orientation in (5, 6, 7, 8):
        assert found.size == (20, 40)


def test_damaged_exif_data_do_not_hide_a_photo() -> None:
    content = stored(half(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(content, "a", LIMIT).size == (40, 20)


def test_every_mode_becomes_the_colours_that_are_seen() -> None:
    red = np.array([255, 0, 0])
    for mode in ("RGB", "RGBA", "CMYK", "P", "YCbCr"):
        kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
        found = np.asarray(open_image(stored(half().convert(mode), kind), mode, LIMIT))
        assert np.abs(found[0, 0].astype(int) - red).max() <= 3, mode
    grey = half().convert("LA")
    found = np.asarray(open_image(grey.convert("La"), "La", LIMIT))
    np.testing.assert_array_equal(found, np.asarray(open_image(grey, "LA", LIMIT)))
    for mode in ("1", "L", "LA"):
        assert open_image(stored(half().convert(mode), "PNG"), mode, LIMIT).mode == "RGB"


def test_sixteen_bits_keep_their_shades() -> None:
    grey = np.linspace(0, 65_535, 64, dtype=np.uint16).reshape(8, 8)
    found = np.asarray(open_image(stored(Image.fromarray(grey), "PNG"), "a", LIMIT))[..., 0]
    np.testing.assert_array_equal(found, grey >> 8)
    plain = np.asarray(Image.fromarray(grey).convert("RGB"))[..., 0]
    assert (plain == 255).mean() > 0.9  # what Pillow itself makes of them


def test_sixteen_bits_of_other_formats() -> None:
    grey = np.linspace(0, 65_535, 64, dtype=np.uint16).reshape(8, 8)
    wide = Image.fromarray(grey.astype(np.int32))
    assert Image.open(io.BytesIO(stored(wide, "PPM"))).mode == "I"
    np.testing.assert_array_equal(np.asarray(open_image(stored(wide, "PPM"), "a", LIMIT))[..., 0], grey >> 8)
    clear = stored(Image.fromarray(grey), "PNG", transparency=int(grey[2, 3]))
    expected = grey >> 8
    expected[2, 3] = 255
    np.testing.assert_array_equal(np.asarray(open_image(clear, "a", LIMIT))[..., 0], expected)
    with pytest.raises(UserError, match="32 bits without a fixed range"):
        open_image(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "a", LIMIT)


def test_an_address_is_told_from_a_wrong_path(tmp_path: Path) -> None:
    address = "https://example.org/a.png"
    for source in (address, Path(address), cell_image(address, tmp_path, None, "row 1")):
        with pytest.raises(UserError, match=r"no such image file .*; download it first"):
            open_image(source, "row 1", LIMIT)
    for path in ("C:/a.png", "photos/a.png", "12:30/a.png:/b"):
        with pytest.raises(UserError, match="; correct the path"):
            open_image(tmp_path / path, "row 1", LIMIT)


def test_transparent_pixels_are_white() -> None:
    image = half().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert np.asarray(open_image(stored(image, "PNG"), "a", LIMIT)).min() == 255
    palette = half().convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    found = np.asarray(open_image(stored(palette, "PNG", transparency=palette.getpixel((0, 0))), "a", LIMIT))
    assert found[0, 0].tolist() == [255, 255, 255] and found[0, -1].tolist() != [255, 255, 255]


def test_an_image_of_the_caller_stays_as_it_is() -> None:
    image = half().convert("RGBA")
    before = image.tobytes()
    found = open_image(image, "a", LIMIT)
    found.paste("green", (0, 0, 40, 20))
    assert image.tobytes() == before and image.mode == "RGBA"


def test_a_photo_with_a_preview_is_its_first_image() -> None:
    content = stored(half(), "MPO", save_all=True, append_images=[half().rotate(180)])
    found = np.asarray(open_image(content, "a", LIMIT))
    assert found[0, 0, 0] > 200 > found[0, -1, 0]


def test_inputs_of_every_kind(tmp_path: Path) -> None:
    image = half()
    assert as_item("a text", "1") == Item("a text", None, "1")
    assert as_item({"text": "a", "image": image}, "1") == Item("a", image, "1")
    assert as_item({"image": "b.png"}, "1") == Item("", "b.png", "1 (b.png)")
    assert as_item({"text": "a", "image": None}, "1") == Item("a", None, "1")
    for source in (image, b"x", tmp_path / "a.png", {"bytes": b"x", "path": None}):
        assert as_item(source, "1").image is source and is_single(source) and not is_single([source])
    wrong: dict[str, object] = {
        "neither a text nor an image": {"text": None},
        "unknown 'pixels'": {"text": "a", "pixels": 1},
        "text is an int": {"text": 5},
        "a float is neither": 1.5,
    }
    for part, value in wrong.items():
        with pytest.raises(UserError, match=part):
            as_item(value, "input 3")


class _Read:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_windows_hold_few_images_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "WINDOW_BYTES", 25)
    copies = [stored(half(), "PNG"), stored(half(), "BMP"), half()]
    inputs = [*copies, "a text", half(20, 40), {"text": "b", "image": half()}, half(22, 22), half(24, 24), "end"]
    found = list(windows(inputs, 7, lambda image, where: _Read(10), LIMIT))
    assert [window.first for window in found] == [0, 7]
    assert [list(window.numbers) for window in found] == [[0, 0, 0, None, 1, 0, 2], [0, None]]
    assert [window.texts for window in found] == [["", "", "", "a text", "", "b", ""], ["", "end"]]
    assert len({pixel_hash(open_image(copy, "a", LIMIT)) for copy in copies}) == 1
    assert pixel_hash(half(20, 40)) != pixel_hash(half(40, 20))
    with pytest.raises(UserError, match="input 4: a float"):
        list(windows([*copies, 1.0], 7, lambda image, where: _Read(1), LIMIT))


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    table, outside = tmp_path / "table", tmp_path / "secret.png"
    table.mkdir()
    half().save(outside)
    half().save(table / "a.png")
    (table / "link.png").symlink_to(outside)
    (table / "notes.txt").write_text("notes")
    assert cell_image("a.png", table, None, "row 1") == (table / "a.png").resolve()
    assert cell_image({"bytes": None, "path": "a.png"}, table, None, "row 1") == (table / "a.png").resolve()
    for path in ("../secret.png", str(outside), "link.png", "x/../../secret.png"):
        with pytest.raises(UserError, match=r"row 1 \(.*secret.png|leads out of"):
            cell_image(path, table, None, "row 1")
        assert cell_image(path, table, tmp_path, "row 1") == outside.resolve()
    with pytest.raises(UserError, match=r"link\.png: leads out of"):
        images_of_folder(table, None)
    found, others = images_of_folder(table, tmp_path)
    assert [Path(item.where).name for item in found] == ["a.png", "link.png"] and others == ["notes.txt"]
    for smuggled in (str(outside), {"path": str(outside)}, [str(outside)], outside):
        with pytest.raises(UserError, match=r"row 1: its bytes are a \w+; give the content of a file"):
            cell_image({"bytes": smuggled, "path": None}, table, None, "row 1")
    for content in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert cell_image(content, table, None, "row 1") is content
        assert cell_image({"bytes": content}, table, None, "row 1") is content
        assert content_hash(content) == content_hash(b"x")
    for value, part in ((None, "there is no image"), ("", "there is no image"), (3, "an int is no image")):
        with pytest.raises(UserError, match=part):
            cell_image(value, table, None, "row 1")


def test_no_folder_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "more").mkdir()
    half().save(tmp_path / "photos" / "a.png")
    half().save(tmp_path / "more" / "b.png")
    (tmp_path / "linked").symlink_to("photos")
    assert len(images_of_folder(tmp_path / "linked", None)[0]) == 1
    for read in (is_image_folder, lambda folder: images_of_folder(folder, tmp_path)):
        with pytest.raises(UserError, match="linked: a link to a folder, which is not followed"):
            read(tmp_path)
    (tmp_path / "linked").unlink()
    scan = os.scandir

    def closed(place: str) -> Any:
        if Path(place).name == "photos":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"photos: can't be read \(Permission denied\); make it readable"):
        images_of_folder(tmp_path, None)


def test_common_suffixes_are_those_of_images() -> None:
    Image.init()
    formats = {suffix: kind for suffix, kind in Image.EXTENSION.items() if kind in FORMATS}
    rare = {".jpe", ".apng", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".pfm", ".avifs", ".pam"}
    assert {suffix for suffix in formats if suffix not in SUFFIXES} <= rare
    assert set(formats) >= SUFFIXES
