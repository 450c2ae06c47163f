"""Tables for a terminal and in Markdown: widths, sides, escapes and wrapped cells."""

from __future__ import annotations

from dec2vec.text_tables import markdown_table, plain_table

ROWS = [("system", "score", "note"), ("bare", "7.25", "none"), ("prompteol", "61.06", "")]


def test_plain_columns_are_aligned_and_lines_end_in_no_space() -> None:
    assert plain_table(ROWS, left=(0, 2)) == [
        "system     score  note",
        "bare        7.25  none",
        "prompteol  61.06",
    ]
    numbers = plain_table([row[:2] for row in ROWS], left=())
    assert numbers == ["   system  score", "     bare   7.25", "prompteol  61.06"]


def test_the_last_column_is_wrapped_in_place() -> None:
    lines = plain_table([("check", "one two three four"), ("", "")], left=(0, 1), width=16)
    assert lines == ["check  one two", "       three", "       four", ""]


def test_markdown_sides_and_escaped_bars() -> None:
    assert markdown_table(("name", "a", "b"), [("x|y", "1", "2")]) == [
        "| name | a | b |",
        "|---|---:|---:|",
        "| x\\|y | 1 | 2 |",
    ]
    assert markdown_table(("name", "a"), [], left=(0, 1)) == ["| name | a |", "|---|---|"]
