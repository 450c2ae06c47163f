"""Load RUN/model with plain sentence-transformers in a fresh process and print the largest difference of the vectors.

    python scripts/checks/check_export.py runs/english-8m [--texts file.txt]

Exit code 0 when it is at most 1e-5. The untuned decoder's distance is printed too: it must be large.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dec2vec import Encoder, ModelConfig
from dec2vec.decoder.model_folders import find

TEXTS = ["A man plays a guitar.", "", "Who is there?", "Ünïcödé 猫", "word " * 2000, "The cat sleeps on the warm roof."]
PLAIN = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts = open(sys.argv[2], encoding="utf-8", newline="\\n").read().split("\\0")
np.save(sys.argv[3], SentenceTransformer(sys.argv[1]).encode(texts))
"""


def plain_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """What a process that never imports dec2vec gets."""
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "texts", Path(temporary) / "vectors.npy"
        source.write_text("\0".join(texts), encoding="utf-8", newline="\n")
        subprocess.run([sys.executable, "-c", PLAIN, folder, source, target], check=True, cwd=temporary)
        return np.asarray(np.load(target))


def main() -> int:
    """Compare our Encoder on adapter/, plain sentence-transformers on model/, and the untuned decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--texts", type=Path)
    options = parser.parse_args()
    texts = options.texts.read_text(encoding="utf-8").split("\n") if options.texts else TEXTS
    asked = ModelConfig(name_or_path=str(options.run))
    artifact = find(asked)
    if artifact is None:
        raise SystemExit(f"{options.run}: no exported run")
    encoder = Encoder.load(asked)
    encoder.embedder.autocast = None  # plain sentence-transformers does without
    ours = encoder.encode(texts)
    theirs = plain_vectors((options.run / "model").resolve(), texts)
    untuned = Encoder.from_backbone(artifact.config).encode(texts)
    largest = float(np.abs(ours - theirs).max())
    sys.stdout.write(
        f"{len(texts)} texts, {ours.shape[1]} dimensions: largest difference {largest:.2e}; "
        f"from the untuned decoder {float(np.abs(ours - untuned).max()):.2f}\n"
    )
    return 0 if largest <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
