"""Open an untrusted image: bounded before it is decoded, upright, in RGB, every fault in one line.

Only still images of common formats are read; Pillow's other plug-ins (Ghostscript for EPS, fonts, containers) stay
closed. The number of pixels is known from the header, so that a decompression bomb is refused before it is decoded.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from dec2vec.errors import UserError, check_installed

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Names of formats in Pillow, of which a build may lack some. MPO is a photo with a preview or a depth map after it."""
WHITE = (255, 255, 255)
"""What shows through transparent pixels. Their own colour, which nobody sees, is often black."""
BYTES = (bytes, bytearray, memoryview)
"""What may hold the content of a file."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323
"""Tags of TIFF."""
_ADDRESS = re.compile(r"(^|/)[a-zA-Z][a-zA-Z0-9+-]+:/")
"""An address, also behind a folder, and as `Path` has it, with one slash instead of two."""
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def open_image(source: object, where: str, max_pixels: int) -> Image:
    """The image, upright and in RGB. `where` names it in errors: a path, or its place among the inputs.

    `source` is a path, the bytes of a file, an image of Pillow, which stays as it is, or the {"bytes", "path"} of a
    cell of `datasets`. UserError for anything else, and for an image that is damaged, animated or too large.
    """
    pillow = _pillow(where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF data, a large image: what matters is checked here
        image = _opened(pillow, source, where)
        _check_header(image, where, max_pixels)
        try:
            return _in_rgb(pillow, _with_fixed_range(_upright(image), image.format), where)
        except UserError:
            raise
        except Exception as error:  # a decoder that reads damaged data may raise anything
            raise _fault(where, "damaged image", error) from None


def check_image(source: object, where: str, max_pixels: int) -> None:
    """UserError for what a look at the header shows, without decoding the image."""
    pillow = _pillow(where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _opened(pillow, source, where) as image:
            _check_header(image, where, max_pixels)


def _pillow(where: str) -> ModuleType:
    check_installed("PIL", "vision", where)
    import PIL.Image

    return PIL.Image


@cache
def _formats() -> tuple[str, ...]:
    import PIL.Image

    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _opened(pillow: ModuleType, source: object, where: str) -> Image:
    """The image with its header read. A file is read when it is decoded."""
    if isinstance(source, pillow.Image):
        image: Image = source
        return image
    if isinstance(source, Mapping):
        source = cell_content(source, where)
    file = io.BytesIO(source) if isinstance(source, BYTES) else _file(source, where)
    try:
        opened: Image = pillow.open(file, formats=_formats())
    except pillow.UnidentifiedImageError:
        raise UserError(f"{where}: {_what_it_is(file)}; use JPEG, PNG, WebP, GIF, BMP, TIFF or PPM") from None
    except pillow.DecompressionBombError:
        raise UserError(f"{where}: more pixels than model.max_pixels can allow; make it smaller") from None
    except Exception as error:  # a header may be wrong in any way
        raise _fault(where, "its header is damaged", error) from None
    return opened


def cell_content(cell: Mapping[object, object], where: str) -> object:
    """The bytes of a cell of an Image column of `datasets`, or its path where it has no bytes.

    UserError for bytes that are none: a path among them would be read without the checks of a path.
    """
    content = cell.get("bytes")
    if set(cell) - {"bytes", "path"} or (content is None and cell.get("path") is None):
        raise UserError(f"{where}: an image given as a mapping has bytes or a path, and nothing else")
    if content is None:
        return cell["path"]
    if not isinstance(content, BYTES):
        raise UserError(f"{where}: its bytes are {a_kind(content)}; give the content of a file, or its place as path")
    return content


def a_kind(value: object) -> str:
    """The type of a value in words, such as `an int`."""
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _file(source: object, where: str) -> Path:
    """The path of a regular file that is not empty."""
    if not isinstance(source, str | Path) or not str(source):
        kind = "an empty path" if isinstance(source, str) else a_kind(source)
        raise UserError(f"{where}: {kind} is not an image; give a path, the bytes of a file or an image of Pillow")
    path = Path(source)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        remote = _ADDRESS.search(str(source))
        fix = "download it first, images are read from this machine" if remote else "correct the path"
        raise UserError(f"{where}: no such image file ({_reason(error)}); {fix}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{where}: not a regular file; give the path of an image")
    if not status.st_size:
        raise UserError(f"{where}: the file is empty; copy it again")
    return path


def _what_it_is(file: io.BytesIO | Path) -> str:
    start = file.getvalue()[:64] if isinstance(file, io.BytesIO) else file.open("rb").read(64)
    if not start:
        return "empty"
    if start.lstrip().lower().startswith((b"<svg", b"<?xml")):
        return "a drawing in SVG or other XML"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the image (git lfs pull)"
    return "not an image of a format that is read"


def _check_header(image: Image, where: str, max_pixels: int) -> None:
    """UserError for too many pixels, none, or several frames."""
    width, height = image.size
    _check_size(width, height, where, max_pixels)
    if not width * height:
        raise UserError(f"{where}: {width} x {height} pixels; replace it, or remove it")
    try:
        tile = _tile_of_tiff(image)
        has_frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # looks for a second frame
    except Exception as error:  # as every header
        raise _fault(where, "its header is damaged", error) from None
    _check_size(*tile, f"{where}: a tile", max_pixels)
    if has_frames:
        raise UserError(f"{where}: several frames or pages; save the one that is meant as an image of its own")


def _check_size(width: int, height: int, where: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UserError(
            f"{where}: {width} x {height} are {width * height:,} pixels, and model.max_pixels is {max_pixels:,}; make "
            "it smaller, or raise the limit"
        )


def _tile_of_tiff(image: Image) -> tuple[int, int]:
    """Width and height of the tiles of a TIFF: one is decoded whole, however little of it the image shows."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))


def _fault(where: str, what: str, error: Exception) -> UserError:
    """What to say of an image that can't be read: the system refuses the file, or its content is damaged."""
    if isinstance(error, OSError) and error.errno:  # Pillow's own errors have no number
        return UserError(f"{where}: can't be read ({_reason(error)}); make it readable")
    return UserError(f"{where}: {what} ({_reason(error)}); replace it, or remove it")


def _upright(image: Image) -> Image:
    """The decoded image, turned as its EXIF data say; as it is stored if they can't be read. Always a copy."""
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data are a format of their own, with damage of their own
        return image.copy()


def _with_fixed_range(image: Image, kind: str | None) -> Image:
    """The 16 bits of a PPM, which Pillow reads as integers of 32. In other formats such integers may be anything."""
    if image.mode != "I" or kind != "PPM":
        return image
    found: Image = image.convert("I;16")
    return found


def _in_rgb(pillow: ModuleType, image: Image, where: str) -> Image:
    """8 bits of red, green and blue for each pixel, on white where the image is transparent."""
    if image.mode in _SIXTEEN_BIT:
        image = _of_sixteen_bits(pillow, image)
    if image.mode == "F":
        raise UserError(f"{where}: its pixels are floats without a fixed range; save it with 8 or 16 bits")
    if image.mode == "I":
        raise UserError(f"{where}: its pixels have 32 bits without a fixed range; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        background: Image = pillow.new("RGBA", image.size, WHITE)
        image = pillow.alpha_composite(background, image)
    found: Image = image.convert("RGB")
    return found


def _of_sixteen_bits(pillow: ModuleType, image: Image) -> Image:
    """Grey values from 0 to 65,535 as 8 bits. Pillow itself would make everything above 255 white.

    A PNG may name one of the 65,536 values as the transparent one.
    """
    values = np.asarray(image).astype(np.uint32)
    grey: Image = pillow.fromarray((values >> 8).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(pillow.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _reason(error: Exception) -> str:
    """The first line of an error, in a few words."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0][:120].rstrip(".") if lines else type(error).__name__
