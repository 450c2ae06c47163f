"""Images that must not be read, each built in code, with a part of the line that says why."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Builder = Callable[[Path], object]


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file of this format."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def _picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def _frames(kind: str) -> bytes:
    other = Image.new("RGB", (64, 64), "red")
    return stored(_picture(), kind, save_all=True, append_images=[other])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG whose header claims a size that its data do not have."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data


def _gif_screen(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\x80\0\0\0\0\0\xff\xff\xff,"
        + struct.pack("<HHHH", 0, 0, width, height)
        + b"\0\x02\x02D\x01\0;"
    )


def tiff(width: int, height: int, data: bytes, *layout: tuple[int, int]) -> bytes:
    """A grey TIFF, compressed with deflate, of one tile or strip. `layout` are its tags; the data come last."""
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1), *layout]
    tags += [(325 if dict(layout).keys() & {322} else 279, len(data))]
    where = 324 if dict(layout).keys() & {322} else 273
    entries = sorted([*tags, (where, 8 + 2 + 12 * (len(tags) + 1) + 4)])
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + b"\0" * 4 + data


def _written(name: str, content: bytes) -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def _dangling(folder: Path) -> Path:
    (folder / "link.png").symlink_to(folder / "gone.png")
    return folder / "link.png"


def _loop(folder: Path) -> Path:
    (folder / "a.png").symlink_to(folder / "b.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    return folder / "a.png"


def _file(content: bytes) -> Builder:
    return lambda folder: content


def _damaged_png() -> bytes:
    good = bytearray(stored(_picture(), "PNG"))
    good[60:70] = b"\xff" * 10
    return bytes(good)


BAD: dict[str, tuple[Builder, str]] = {
    "a missing file": (lambda folder: folder / "no.png", "no such image file"),
    "a folder": (lambda folder: folder, "not a regular file"),
    "a pipe": (_fifo, "not a regular file"),
    "a link to nothing": (_dangling, "no such image file"),
    "a link in a circle": (_loop, "no such image file"),
    "an address": (lambda folder: {"path": "https://example.org/a.png"}, "download it first"),
    "a name with a zero byte": (lambda folder: {"path": "a\0.png"}, "no such image file"),
    "an empty file": (_written("empty.jpg", b""), "the file is empty"),
    "no bytes": (_file(b""), "empty; use JPEG"),
    "text": (_written("text.jpg", b"This is no picture."), "not an image of a format that is read"),
    "SVG": (_written("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "a drawing in SVG"),
    "PostScript": (_file(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image of a format"),
    "a pointer of Git LFS": (_file(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"),
    "a truncated JPEG": (_file(stored(_picture(), "JPEG")[:900]), "damaged image"),
    "a truncated PNG": (_file(stored(_picture(), "PNG")[:3000]), "damaged image"),
    "a truncated WebP": (_file(stored(_picture(), "WEBP")[:400]), "damaged"),
    "a PNG with damaged data": (_file(_damaged_png()), "damaged image"),
    "a PNG with too little data": (_file(png(64, 64)), "damaged image"),
    "half a header": (_file(png(64, 64)[:20]), "its header is damaged"),
    "a bomb of 100 million pixels": (_file(png(10_000, 10_000, bits=1)), "model.max_pixels is 64,000,000"),
    "a bomb of 10 billion pixels": (_file(png(100_000, 100_000, bits=1)), "more pixels than model.max_pixels"),
    "a GIF bomb": (_file(_gif_screen(65_535, 65_535)), "more pixels than model.max_pixels"),
    "a TIFF with a tile of a billion pixels": (
        _file(tiff(10, 10, zlib.compress(b"\0" * 100), (322, 32_768), (323, 32_768))),
        "a tile: 32768 x 32768 are 1,073,741,824 pixels",
    ),
    "a GIF with a damaged second frame": (_file(_gif_screen(1, 1)[:-1] + b",\0"), "its header is damaged"),
    "a bomb in a comment": (
        _file(png(64, 64, _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (4 << 20))))),
        "its header is damaged",
    ),
    "an animated GIF": (_file(_frames("GIF")), "several frames or pages"),
    "an animated PNG": (_file(_frames("PNG")), "several frames or pages"),
    "an animated WebP": (_file(_frames("WEBP")), "several frames or pages"),
    "a TIFF of two pages": (_file(_frames("TIFF")), "several frames or pages"),
    "floats": (_file(stored(Image.new("F", (8, 8), 0.5), "TIFF")), "floats without a fixed range"),
    "32 bits": (_file(stored(Image.new("I", (8, 8), 200), "TIFF")), "32 bits without a fixed range"),
    "a cell without content": (lambda folder: {"bytes": None, "path": None}, "has bytes or a path"),
    "a cell with more": (lambda folder: {"bytes": b"", "label": 1}, "has bytes or a path"),
    "a cell with a path for bytes": (lambda folder: {"bytes": str(folder / "a.png")}, "its bytes are a str"),
    "a cell in a cell": (lambda folder: {"bytes": {"path": "/a.png"}}, "its bytes are a dict"),
    "a number": (lambda folder: 5, "an int is not an image"),
    "an array": (lambda folder: np.zeros((8, 8, 3)), "a ndarray is not an image"),
}
