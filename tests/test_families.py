"""Every family equals plain transformers and plain PEFT in what docs/families.md says, and the page has all of them."""

from __future__ import annotations

import re

import check_families
import pytest
from check_families import (
    COLUMNS,
    END,
    KNOWN,
    LAST_LAYER,
    NOT_RUN,
    NOT_SHARED,
    ON_TWO,
    PAGE,
    START,
    Cell,
    families,
    measured,
)

from tests.export_cases import PEFT_WARNING

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


def rows_of_the_page() -> dict[str, dict[str, str]]:
    table = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:2] == "| "]
    return {cells[0]: dict(zip(COLUMNS, cells[1:], strict=True)) for cells in rows[2:]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", families())
def test_a_family_is_what_the_page_says(family: str) -> None:
    for column, cell in measured(family).items():
        known = KNOWN.get(family, {}).get(column)
        assert cell.passed if known is None else re.search(known, str(cell)), (column, str(cell))


def test_the_page_has_every_family_and_every_refusal_is_known() -> None:
    rows = rows_of_the_page()
    assert list(rows) == families()
    for family, cells in rows.items():
        for column, text in cells.items():
            known = KNOWN.get(family, {}).get(column)
            if known is not None:
                assert re.search(known, text), (family, column)
            elif text == NOT_RUN:
                assert column == "two processes" and family not in ON_TWO, (family, column)
            elif text != NOT_SHARED:
                assert Cell(float(text.removesuffix(LAST_LAYER))).passed, (family, column)


def test_views_of_a_family_and_that_another_layer_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Mamba, transformers' list has no embeddings."""
    assert measured("mamba", ["vectors"])["vectors"].passed
    monkeypatch.setattr(check_families, "WITHOUT_EMBEDDINGS", ())
    assert not measured("mamba", ["vectors"])["vectors"].passed


def test_gradients_of_a_family_and_that_another_step_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured("falcon", ["gradients"])["gradients"].passed
    truth = check_families._plain_gradients
    monkeypatch.setattr(check_families, "_plain_gradients", lambda folder, **model: truth(folder, prompt="prompteol"))
    assert not measured("falcon", ["gradients"])["gradients"].passed
