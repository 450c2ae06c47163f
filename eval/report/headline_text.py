"""The headline in sentences: the same ones in report.md, report.html, report.json and the terminal."""

from __future__ import annotations

import math

from eval.report.numbers import hundred, signed, signed_span, span
from eval.results.comparisons import selected_from
from eval.results.headline import Gap, Headline, Party, Spread

TITLES = {"spearman_all": "Spearman"}
"""Metrics under the names that readers know them by."""


def sentences(found: Headline, where: str = "") -> list[str]:
    """Figures, then differences, then what else a reader must know. `where` is `average of 7 test sets`."""
    place = f", {where}" if where else ""
    systems = [figure for figure in (_tuned(found), _untuned(found)) if figure]
    parts = ", ".join([*(systems or ["no system was selected"]), *filter(None, [_outside(found)])])
    count = "1 system" if found.compared == 1 else f"{found.compared:,} systems"
    lines = [f"{TITLES.get(found.metric, found.metric)} x 100{place}: {parts}. {count} in the table."]
    lines += [] if found.is_judged else ["This describes the vectors: a higher figure is not a better one."]
    return [*lines, *_differences(found), *_highest(found), *_seeds(found)]


def _figure(party: Party, role: str, *more: str) -> str:
    """`85.00 tuned (tuned/a; 80.00 to 90.00)`."""
    interval = "" if party.low is None else span(party.low, party.high)
    return f"{hundred(party.value)} {role} ({'; '.join([party.name, *(text for text in (interval, *more) if text)])})"


def _tuned(found: Headline) -> str:
    party = found.tuned
    if party is None:
        return ""
    if party.selection == "none":
        return _figure(party, "tuned", f"the first of {party.candidates} runs, as no dev data select one")
    return _figure(party, "tuned", "" if party.candidates == 1 else f"{selected(party)} from {party.candidates} runs")


def _untuned(found: Headline) -> str:
    party = found.untuned
    if party is None:
        return ""
    if party.selection == "fixed":
        return _figure(party, "untuned", "read as the tuned run" if found.tuned else "")
    role = "best untuned" if party.selection == "dev" else "untuned"
    return _figure(party, role, f"{selected(party)} from {party.candidates:,} rows")


def _outside(found: Headline) -> str:
    party = found.outside
    if party is None:
        return ""
    many = "" if party.candidates == 1 else f"the highest of {party.candidates} on the test"
    return _figure(party, "best outside row", many)


def selected(party: Party) -> str:
    """On which data a system was selected."""
    other = ", another task" if party.selection == "other dev" else ""
    return "not selected" if party.selected_on is None else f"selected on {party.selected_on}{other}"


def _differences(found: Headline) -> list[str]:
    lines = []
    if found.to_untuned is not None and found.untuned is not None:
        party, has_p = found.untuned, math.isfinite(found.to_untuned.p_value)
        many = selected_from(party.candidates, party.selected_on) if has_p else ""
        lines.append(f"Tuned minus untuned: {_gap(found.to_untuned)}{' ' if many else ''}{many}")
    if found.to_outside is not None and found.outside is not None:
        corrected = _corrected(found.to_outside, found.outside, "outside")
        lines.append(f"Tuned minus the best outside row: {_gap(found.to_outside)}{corrected}")
    return lines


def _gap(gap: Gap) -> str:
    if not math.isfinite(gap.value):
        return "not available, because a score is missing."
    value, interval = signed(gap.value), signed_span(gap.low, gap.high, conservative=gap.conservative)
    if gap.no_interval:
        return f"{value}; no interval and no p-value: {gap.no_interval}."
    tie = " A tie: the interval contains 0." if gap.is_tie else ""
    return f"{value}, 95 % interval {interval}, p = {gap.p_value:.3f} (paired bootstrap, two-sided).{tie}"


def _corrected(gap: Gap, party: Party, kind: str) -> str:
    if party.candidates == 1 or not math.isfinite(gap.p_corrected):
        return ""
    return f" Corrected for {party.candidates:,} {kind} rows (Holm): p = {gap.p_corrected:.3f}."


def _highest(found: Headline) -> list[str]:
    """The strongest bar: the untuned row on whose side luck is."""
    party, gap = found.highest_untuned, found.to_highest_untuned
    if party is None or party.candidates == 1:
        return []
    verdict = "" if found.tuned is None else f"Tuned above every untuned row: {_yes(found.is_above_every_untuned)}. "
    many = f"{party.candidates:,} untuned rows"
    row = f"The highest of {many} on the test itself is {party.name} with {hundred(party.value)}"
    difference = "" if gap is None else f"; tuned minus it: {_gap(gap)}{_corrected(gap, party, 'untuned')}"
    return [f"{verdict}{row}{difference or '.'}"]


def _seeds(found: Headline) -> list[str]:
    seeds: Spread | None = found.seeds
    if seeds is None:
        return []
    figures = f"mean {hundred(seeds.mean)}, standard deviation {hundred(seeds.sd)}"
    lines = [f"The tuned run is one of {seeds.runs} seeds of {seeds.recipe}: {figures}."]
    if seeds.to_untuned is not None:
        lines.append(f"Mean of the seeds minus untuned, over other seeds and other items: {_gap(seeds.to_untuned)}")
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "no"
