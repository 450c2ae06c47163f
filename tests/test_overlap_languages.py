"""Overlap in many languages: planted copies are found, and texts that differ in one mark are told apart."""

from __future__ import annotations

import importlib
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.leakage.near import NearIndex
from eval.leakage.normal_form import normalized, units
from eval.leakage.overlap import EvaluationSet, measure
from eval.leakage.training_text import sample_fit_text
from eval.tasks.sts import load_task
from tests.helpers import write_jsonl

HINDI_AND_THAI = [
    {"sentence1": "वह घर गया", "sentence2": "आज का दिन", "score": 1},
    {"sentence1": "मेरा नाम राम है", "sentence2": "यह किताब है", "score": 2},
    {"sentence1": "ป่า", "sentence2": "ข้าวใหม่", "score": 3},
    {"sentence1": "a b c", "sentence2": "x y z", "score": 4},
]
OTHERS = ["वह घर गयी", "आज का दान", "ปา", "ขาวใหม", "मीरा नीम रोम है", "यह कीतूब है"]
"""She went home, a gift, aunt ...: none of them is a text of the above."""


def test_the_table_of_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of docs/overlap.md, where its two exceptions are explained."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts/checks"))
    found: dict[str, Any] = {row.language: row for row in importlib.import_module("check_overlap").table()}
    assert len(found) == 24
    missed = {name: row.copies - row.copies_found for name, row in found.items() if row.copies != row.copies_found}
    assert missed == {"Turkish": 1} and all(row.copies == 42 for row in found.values())
    assert all(row.near_found == row.near > 13 for row in found.values())
    assert all(row.unlike_copies == 0 < row.unlike for row in found.values())
    assert {name: row.unlike_near for name, row in found.items() if row.unlike_near} == {"Chinese": 11}


def test_texts_that_differ_in_vowel_signs_and_tones_are_clean(tmp_path: Path) -> None:
    test = load_task(write_jsonl(tmp_path / "test.jsonl", HINDI_AND_THAI))
    [count] = measure({"train": OTHERS}, [EvaluationSet.from_pairs(test.test_pairs)]).counts
    assert (count.exact, count.normalized, count.near, count.pairs_clean) == (0, 0, 0, 4)
    fit = sample_fit_text({"train": OTHERS}, test.test.queries, len(OTHERS), seed=0)
    assert fit.dropped == 0 and len(fit.sentences) == len(OTHERS)


@pytest.mark.parametrize(
    ("text", "same", "unlike"),
    [
        ("कमल", "कमल।", "कमाल"),
        ("ไม้ ใหม่", "ไม้ใหม่!", "ไม ใหม่"),
        ("שָׁלוֹם", "(שָׁלוֹם)", "שלום"),
        ("كِتَابٌ", "كِتَـــابٌ", "كُتَّابٌ"),
        ("cafe\u0301 ouvert", "CAF\u00c9: OUVERT", "cafe ouvert"),
        ("ﾊﾞｽ", "バス", "ハス"),
        ("我用Python写code", "我 用 Ｐｙｔｈｏｎ，写 CODE", "我用Python读code"),
        ("п'ять слів", "пʼять слів", "пять слів"),
        ("ISPARTA'da bir İş", "ısparta'da bir iş", "isparta'da bir is"),
        ("don´t", "don't", "dont"),
        ("မြန်မာ", "မြန်\u200bမာ", "မြန်မ"),
        ("κόσμος", "ΚΌΣΜΟΣ", "κοσμος"),
        ("straße", "STRASSE", "strase"),
    ],
)
def test_what_is_equal(text: str, same: str, unlike: str) -> None:
    assert normalized(text) == normalized(same) != normalized(unlike)


def test_canonically_equivalent_texts_are_equal_and_a_normal_form_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts/checks"))
    sentences = importlib.import_module("overlap_languages").SENTENCES
    for text in (text for texts in sentences.values() for text in texts):
        forms = {normalized(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
        assert len(forms) == 1 and normalized(*forms) == normalized(text)
        assert "".join(units(normalized(text))) == normalized(text).replace(" ", "")


def test_a_mark_without_a_letter_is_no_word() -> None:
    assert normalized("\u0301 !\u0301") == "" and normalized("\u25cc\u0e49") == ""


def test_a_word_in_another_script_takes_its_place_among_characters() -> None:
    """Three Latin words fill a shingle as four Han characters do."""
    long = "我们昨天在公司用 python 和 numpy 写了一个很长的程序来处理所有客户的数据"
    assert NearIndex([long]).found([long.replace("数据", "资料")]) == {long}
    assert NearIndex([long]).found([long.replace("python", "rust").replace("numpy", "serde")]) == set()
    short = "我用 python"
    assert NearIndex([short]).found(["我用 rust"]) == set() and NearIndex([short]).found([short]) == {short}


def counts(sources: dict[str, list[str]], rows: list[dict[str, object]], folder: Path) -> tuple[int, ...]:
    task = load_task(write_jsonl(folder / "test.jsonl", rows))
    [found] = measure(sources, [EvaluationSet.from_pairs(task.test_pairs)]).counts
    return found.texts, found.exact, found.normalized, found.near, found.pairs, found.pairs_with_both, found.pairs_clean


def test_counts_change_with_what_they_are_of_alone(tmp_path: Path) -> None:
    """The order of rows and repeated or unrelated training texts change nothing; a repeated row counts as an item."""
    long = "ทุกเช้าเราเดินไปตลาดใหม่ใกล้แม่น้ำเพื่อซื้อปลาสดและผลไม้หวานกลับบ้านมาทำอาหารเย็น"
    long += "แล้วนั่งกินข้าวด้วยกันที่ระเบียงหน้าบ้านจนมืดค่ำ"
    rows: list[dict[str, object]] = [*HINDI_AND_THAI, {"sentence1": long, "sentence2": "ห้า", "score": 5}]
    train = ["वह घर गया!", "ป่า", "ข้าว ใหม่", long.replace("หวาน", "สวย"), *OTHERS]
    plain = counts({"train": train}, rows, tmp_path)
    assert plain == (10, 1, 3, 4, 5, 1, 2)
    order = np.random.default_rng(0).permutation(len(rows))
    assert counts({"train": train}, [rows[at] for at in order], tmp_path) == plain
    assert counts({"train": train[::-1] * 3}, rows, tmp_path) == plain
    assert counts({"train": [*train, "something quite unrelated to all of it"]}, rows, tmp_path) == plain
    assert counts({"a renamed run": train}, rows, tmp_path) == plain
    assert counts({"train": train}, [*rows, rows[1]], tmp_path) == (10, 1, 3, 4, 6, 1, 3)
    extra: dict[str, object] = {"sentence1": "never seen before", "sentence2": "nor this one", "score": 2}
    assert counts({"train": train}, [*rows, extra], tmp_path) == (12, 1, 3, 4, 6, 1, 3)
