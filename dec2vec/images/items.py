"""What may be given to an encoder: a text, an image, or both; and the inputs in windows whose images fit into memory.

Equal images of a window are read once: they are compared by a hash of their pixels, so that a photo and its copy under
another name, or in another lossless format, count as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

from dec2vec.errors import UserError
from dec2vec.images.opening import BYTES, a_kind, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOW_BYTES = 128 << 20
"""Bytes of preprocessed images that are in memory together, if no single one is larger."""
WINDOW_IMAGES = 512
"""The same as a number, enough for several chunks that are sorted by length."""
TEXT, IMAGE = "text", "image"


@runtime_checkable
class HasBytes(Protocol):
    """An image as a decoder reads it."""

    @property
    def nbytes(self) -> int:
        """Its size in memory."""


Read = TypeVar("Read", bound=HasBytes)


@dataclass(frozen=True)
class Item:
    """One input. `where` names it in errors."""

    text: str
    image: object | None
    where: str


@dataclass(frozen=True)
class Window(Generic[Read]):
    """Inputs that are embedded together, beginning with input `first`."""

    first: int
    texts: list[str]
    numbers: Sequence[int | None] = ()
    """Of each input the number of its image; empty if no input of the window has one."""
    images: Sequence[Read] = field(default=(), repr=False)
    """By number."""


def windows(
    inputs: Sequence[object], size: int, read: Callable[[Image, str], Read], max_pixels: int
) -> Iterator[Window[Read]]:
    """All inputs in order, at most `size` together, and fewer where their images are large."""
    if all(isinstance(value, str) for value in inputs):
        for start in range(0, len(inputs), size):
            yield Window(start, [str(value) for value in inputs[start : start + size]])
        return
    start = 0
    while start < len(inputs):
        window = _window(inputs, start, min(len(inputs), start + size), read, max_pixels)
        yield window
        start += len(window.texts)


def _window(
    inputs: Sequence[object], start: int, end: int, read: Callable[[Image, str], Read], max_pixels: int
) -> Window[Read]:
    texts: list[str] = []
    numbers: list[int | None] = []
    images: list[Read] = []
    number_of: dict[bytes, int] = {}
    held = 0
    while start + len(texts) < end and held < WINDOW_BYTES and len(images) < WINDOW_IMAGES:
        item = as_item(inputs[start + len(texts)], f"input {start + len(texts) + 1}")
        number = None
        if item.image is not None:
            image = open_image(item.image, item.where, max_pixels)
            number = number_of.setdefault(pixel_hash(image), len(images))
            if number == len(images):
                images.append(read(image, item.where))
                held += images[-1].nbytes
        texts.append(item.text)
        numbers.append(number)
    return Window(start, texts, numbers if images else (), images)


def pixel_hash(image: Image) -> bytes:
    """A digest of the pixels of an RGB image and of its size."""
    digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def as_item(value: object, where: str) -> Item:
    """An input as its text and its image. UserError for what is neither, and for a mapping with neither."""
    if isinstance(value, Item):
        return value
    if isinstance(value, str):
        return Item(value, None, where)
    if isinstance(value, Mapping) and not set(value) & {"bytes", "path"}:
        return _of_mapping(value, where)
    if is_single(value):
        return Item("", value, _named(value, where))
    raise UserError(
        f'{where}: {a_kind(value)} is neither a text nor an image; give a text, an image, or {{"text": ..., '
        '"image": ...}'
    )


def is_single(value: object) -> bool:
    """Whether a value is one input, and no list of inputs."""
    return isinstance(value, (str, Mapping, Path, *BYTES)) or hasattr(value, "getexif")


def _of_mapping(value: Mapping[object, object], where: str) -> Item:
    further = set(value) - {TEXT, IMAGE}
    if further:
        raise UserError(f"{where}: unknown {', '.join(map(repr, sorted(map(str, further))))}; use text and image")
    text, image = value.get(TEXT), value.get(IMAGE)
    if text is not None and not isinstance(text, str):
        raise UserError(f"{where}: text is {a_kind(text)}; give a string")
    if text is None and image is None:
        raise UserError(f"{where}: neither a text nor an image; give one of them")
    return Item(text or "", image, where if image is None else _named(image, where))


def _named(image: object, where: str) -> str:
    """The place of an image in errors: its path where it has one."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else None
    return f"{where} ({image})" if isinstance(image, str | Path) and str(image) else where
