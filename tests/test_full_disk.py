"""A full disk: one line that says so, with the path and an option of the verb, and nothing half-written remains."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dec2vec.files.atomic
import eval.report.write
from dec2vec.corpus.faiss_index import build_index, write_index
from dec2vec.corpus.index_note import IndexNote, write_index_note
from dec2vec.corpus.inputs import write_rows
from dec2vec.corpus.shards import Shard, write_note
from dec2vec.corpus.vector_files import open_vectors, write_vectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_files, why_not_written
from eval.report.write import write_report
from eval.score.scored_pairs import write_rows as write_scored
from tests.report_data import full_report
from train.mining.output import write_mined
from train.mining.pairs import Material
from train.mining.report import build_report
from train.mining.search import Mined, Negative, Tally
from train.teachers.vector_blocks import write_blocks

VECTORS = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)
TEXTS = [f"text {number}" for number in range(300)]


def mined(path: Path) -> None:
    material = Material("pairs", ["a"], ["b"], [()], [{}], ["b", "c"], [{0}])
    rows = [Mined(0.9, (Negative(1, 0.5, 1),))]
    options = {"corpus": None, "cross_encoder": None, "index": "flat", "negatives": 1}
    write_mined(path.with_suffix(".jsonl"), material, rows, build_report(material, rows, Tally(), 1.0, options))


def index(path: Path) -> None:
    small = path.with_name("small.npy")
    np.save(small, VECTORS)
    built = build_index(open_vectors(small), "flat")
    small.unlink()
    on_full_disk()
    write_index(built, path)


def on_full_disk() -> None:
    """From now on a temporary file is /dev/full, whose every write fails as on a full disk."""

    known: set[Path] = set()

    def remove(path: Path) -> None:
        path.unlink(missing_ok=True)
        if path not in known:
            path.symlink_to("/dev/full")
        known.add(path)

    dec2vec.files.atomic._remove = remove


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "encode, npy": (lambda path: write_vectors(path.with_suffix(".npy"), TEXTS, VECTORS), "--output"),
    "encode, parquet": (lambda path: write_vectors(path.with_suffix(".parquet"), TEXTS, VECTORS), "--output"),
    "encode, a shard's note": (
        lambda path: write_note(path.with_suffix(".npy"), Shard("s.npy", 0, 1, 2, "", "", "")),
        "--output",
    ),
    "index": (index, "--output"),
    "index, its note": (lambda path: write_index_note(IndexNote("flat", 1, 2, 1.0), path), "--output"),
    "search, dedup, outliers": (lambda path: write_rows(path, [{"row": 1}]), "--output"),
    "score": (lambda path: write_scored(path, [{"row": 1}], ["row"]), "--output"),
    "mine": (mined, "--output"),
    "eval": (lambda path: write_report(full_report(), path.parent), "output_dir"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dec2vec.files.atomic, "_remove", dec2vec.files.atomic._remove)  # restored at the end
    monkeypatch.setattr(eval.report.write, "draw", lambda report: {"plot.png": b"png"})  # it takes seconds
    monkeypatch.setattr(eval.report.write, "to_html", lambda report, pictures: "<html>")
    write, option = WRITERS[case]
    if case != "index":
        on_full_disk()
    with pytest.raises(UserError) as said:
        write(tmp_path / "out")
    line = str(said.value)
    assert str(tmp_path) in line and f"the disk is full; free some space or choose another {option}" in f"{line} "
    assert list(tmp_path.iterdir()) == []


MESSAGES = {
    "numpy": (OSError("81920 requested and 10208 written"), "the disk is full"),
    "arrow": (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), "the disk is full"),
    "faiss": (
        RuntimeError("Error in void faiss::write_index() at x.cpp:499: write error: 1 != 2 (No space left on device)"),
        "the disk is full",
    ),
    "safetensors": (ValueError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    "quota": (OSError(errno.EDQUOT, "x"), "the disk is full"),
    "permission": (OSError(errno.EACCES, "x"), "it is not writable"),
    "a limit of the shell": (OSError(errno.EFBIG, "x"), "File too large"),
    "unknown": (RuntimeError("broken\nfile.cpp line 3"), "broken"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_why_in_one_line(case: str) -> None:
    error, reason = MESSAGES[case]
    said = why_not_written(error, "--to")
    assert said.startswith(reason) and said.endswith("choose another --to") and "\n" not in said


def test_files_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    atomic_write_files({first: b"1", second: b"1"})
    write = Path.write_bytes

    def fails(path: Path, data: bytes) -> int:
        if data == b"3":
            raise OSError(errno.ENOSPC, "full")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    for changed in ({first: b"2", second: b"3"}, {first: b"3", second: b"2"}):
        with pytest.raises(OSError, match="full"):
            atomic_write_files(changed)
        assert (first.read_bytes(), second.read_bytes()) == (b"1", b"1") and len(list(tmp_path.iterdir())) == 2
    atomic_write_files({first: b"4", second: b"4"})
    assert (first.read_bytes(), second.read_bytes()) == (b"4", b"4")


def test_teacher_vectors_are_written_without_a_memory_map(tmp_path: Path) -> None:
    """A map of a full disk ends the process (SIGBUS). The file is the one that numpy writes."""
    vectors = dict(zip(TEXTS, VECTORS, strict=True))
    asked = [(text, "query") for text in TEXTS]
    write_blocks(tmp_path / "out.npy", lambda texts, side: np.stack([vectors[text] for text in texts]), asked, "t")
    np.save(tmp_path / "expected.npy", VECTORS)
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    (tmp_path / "full.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_blocks(tmp_path / "full.npy", lambda texts, side: VECTORS, asked, "t")
