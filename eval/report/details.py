"""Tables for who reads on: other similarities of the same vectors, and what the vectors cost."""

from __future__ import annotations

from eval.report.blocks import Section, Table
from eval.report.report import Report, hundred, span
from eval.results.results import AVERAGE
from eval.results.similarities import SIMILARITIES

OTHERS = {
    f"{kind} {name}": f"{kind.lower()}_{name}"
    for name in SIMILARITIES
    for kind in ("Spearman", "Pearson")
    if (kind, name) != ("Spearman", "cosine")
}
"""Title -> metric, as in report.json."""


def similarity_section(report: Report) -> Section:
    """Spearman and Pearson of every similarity, of the systems for which they were measured."""
    shown = [name for name in report.systems if report.has(name, AVERAGE, "pearson_cosine")]
    rows = []
    for name in shown:
        whole = report.result(name, AVERAGE)
        others = [hundred(report.result(name, AVERAGE, metric).value) for metric in OTHERS.values()]
        rows.append([name, hundred(whole.value), span(whole.ci_low, whole.ci_high), *others])
    text = "x 100, average over the test sets; distances count as negative. Choices were made by Spearman of cosines."
    table = Table(["system", "Spearman cosine", "95 % interval", *OTHERS], rows, report.best_untuned)
    return Section("Other similarities", [text], [table] if rows else [])


def cost_section(report: Report) -> Section:
    """What went through a decoder in this evaluation."""
    rows = []
    for name, cost in report.costs.items():
        counts = (cost.texts, cost.tokens, cost.prefix_tokens, cost.spared_tokens)
        rows.append([name, *(f"{count:,}" for count in counts), f"{cost.seconds:.1f}"])
    text = "Of this evaluation alone: vectors that an earlier one left cost nothing. A prompt is read once for many"
    text += " texts, as far as it stands before them; spared is what reading it with each text would have added."
    header = ["encoder and prompt", "texts", "tokens read", "of them prompt, read once", "tokens spared", "seconds"]
    return Section("Cost", [text], [Table(header, rows)] if rows else [])
