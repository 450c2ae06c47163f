"""How many were compared: the sentences, and Holm's correction against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from eval.results.comparisons import holm, not_corrected, selected_from


def test_the_sentences_name_the_number_of_rows() -> None:
    assert "from 61 rows" in selected_from(61, "sts-dev") and "one comparison" in selected_from(61, "sts-dev")
    assert "not corrected for the 61 rows" in selected_from(61, None)
    assert selected_from(1, None) == selected_from(1, "sts-dev") == ""
    assert not_corrected(1) == "" and "not corrected for 3 comparisons" in not_corrected(3)


def test_holm_by_hand() -> None:
    """Smallest times 4, next times 3, ...; never below a smaller p's corrected value."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_missing_p_value_is_still_a_comparison() -> None:
    found = holm([0.02, float("nan")])
    assert found[0] == pytest.approx(0.04) and np.isnan(found[1])


def test_holm_keeps_the_rate_of_false_alarms_of_the_family() -> None:
    """Of 2,000 families of 20 true null hypotheses about 5 % hold a p below 0.05; without correction 64 % do."""
    draws = np.random.default_rng(0).uniform(size=(2000, 20))
    raw = (draws.min(axis=1) < 0.05).mean()
    corrected = np.mean([min(holm(list(family))) < 0.05 for family in draws])
    assert raw > 0.6
    assert 0.035 < corrected < 0.065
