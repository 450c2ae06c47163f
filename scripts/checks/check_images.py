"""Images with tiny random decoders of every family: largest differences, and the memory of many images.

    python -m scripts.checks.check_images families
    python -m scripts.checks.check_images memory --folder runs/check_images

`families` prints the table of docs/images.md: vectors against plain transformers, alone, in other chunks, without the
fast paths, and how far they move without the family's own rule. `memory` writes pictures of several sizes and encodes
1,000 and 10,000 of them in fresh processes; exit code 1 if the larger peak is more than 1.2 times the smaller one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from dec2vec.decoder import vision
from tests.test_vision import INPUTS, encode, load, plain_states, without_kinds
from tests.vision_models import VISION_FAMILIES, picture, tiny_vision_folder

COUNTS = (1_000, 10_000)
ALLOWED = 1.2
HEADS = ("family", "rule", "plain transformers", "alone", "other chunks", "without fast paths", "without its rule")
WORDS = "This is a longer prompt: {text}"
_ENCODE = """
import resource, sys
from pathlib import Path
from dec2vec import Encoder, ModelConfig

folder, count = Path(sys.argv[1]), int(sys.argv[2])
encoder = Encoder.load(ModelConfig(name_or_path=str(folder / "model"), autocast="off"))
vectors = encoder.encode(sorted((folder / "pictures").iterdir())[:count], progress=False)
assert vectors.shape[0] == count
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def largest(found: Any, expected: Any) -> float:
    """The largest difference of two arrays."""
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


def family_row(folder: Path, family: str) -> list[str]:
    """The differences of one family."""
    encoder = load(folder, family)
    with_image = [value for value in INPUTS if not isinstance(value, str)]
    plain = []
    for words, eos in (("{}", True), ("Image: {} in one word:", False)):
        states = plain_states(folder / family, family, words, eos=eos)
        for layer in (-1, 1):
            encoder.config = replace(encoder.config, layer=layer, prompt="bare" if eos else words.format("{text}"))
            found = encode(encoder, with_image, normalize=False)
            plain.append(largest(found, [of_input[layer] for of_input in states]))
    encoder.config = replace(encoder.config, layer=-1, prompt=WORDS)
    together = encode(encoder, INPUTS)
    alone = largest(np.concatenate([encode(encoder, [value]) for value in INPUTS]), together)
    chunks = largest(encode(encoder, INPUTS[::-1], batch_tokens=40)[::-1], together)
    dropped = _without_rule(encoder, together)
    encoder.share_prefix = encoder.embedder.narrow = False
    slow = largest(encode(encoder, INPUTS), together)
    shown = [f"{value:.0e}" for value in (max(plain), alone, chunks, slow)]
    return [family, vision.FAMILIES[family].rule, *shown, dropped]


def _without_rule(encoder: Any, expected: Any) -> str:
    with patch("dec2vec.decoder.embedder.input_arguments", without_kinds):
        try:
            return f"{largest(encode(encoder, INPUTS), expected):.0e}"
        except ValueError:
            return "refused by transformers"


def families() -> int:
    """Print the table."""
    print_row(HEADS)
    print_row(["---"] * len(HEADS))
    with TemporaryDirectory() as folder:
        for family in VISION_FAMILIES:
            print_row(family_row(Path(folder), family))
    return 0


def print_row(cells: Sequence[str]) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def memory(folder: Path) -> int:
    """Print the peak of each number of images, and their ratio."""
    tiny_vision_folder(folder / "model", "qwen2_vl")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(COUNTS[-1]):
        image = picture(number, 160 + 40 * (number % 5), 160 + 20 * (number % 7))
        image.save(folder / "pictures" / f"{number:05d}.jpg")
    peaks = [_peak(folder, count) for count in COUNTS]
    for count, peak in zip(COUNTS, peaks, strict=True):
        sys.stdout.write(f"{count:,} images: {peak / 1024:.0f} MiB\n")
    ratio = peaks[-1] / peaks[0]
    sys.stdout.write(f"{ratio:.3f} times, allowed {ALLOWED}\n")
    return int(ratio > ALLOWED)


def _peak(folder: Path, count: int) -> int:
    command = [sys.executable, "-c", _ENCODE, str(folder), str(count)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("families", "memory"))
    parser.add_argument("--folder", type=Path, default=Path("runs/check_images"))
    options = parser.parse_args()
    return families() if options.what == "families" else memory(options.folder)


if __name__ == "__main__":
    sys.exit(main())
