"""Outputs that can't be written are refused in one line, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dec2vec.errors import UserError
from dec2vec.files.atomic import check_output


def test_what_can_be_written_is_not_refused(tmp_path: Path) -> None:
    check_output(tmp_path / "new.jsonl", [".jsonl"], inputs=[tmp_path / "old.jsonl", None])
    (tmp_path / "new.txt").write_text("an earlier output is replaced")
    check_output(tmp_path / "new.txt")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("new.csv", "unknown format .csv; use .jsonl or .npy"),
        ("new", "unknown format without a suffix; use .jsonl or .npy"),
        ("sub/../in.jsonl", "is an input file; use another file"),
        ("folder.npy", "is a folder; give a file"),
        ("gone/new.npy", "does not exist; create it first"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=says):
        check_output(tmp_path / name, [".jsonl", ".npy"], inputs=[str(tmp_path / "in.jsonl")])
