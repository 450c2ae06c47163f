"""The quickstart of each tree, with its own configuration and its own demo data: table, report, metrics, adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from golden_runs.cases import Case, Facts, Finding, Side, lines_differ, metrics, weights_digest
from golden_runs.reports import compare_reports

CONFIG = "configs/train/quickstart.yaml"
OPTIONS = ("--model.autocast", "off", "--model.device", "cpu")


def cases() -> list[Case]:
    """Several minutes in each tree."""
    return [Case("quickstart", _run, compare)]


def _run(side: Side, folder: Path) -> Facts:
    """From a folder that shows the tree's own files, so that relative paths of its configuration hold."""
    here, run = folder / "here", folder / "run"
    here.mkdir()
    for path in side.tree.root.iterdir():
        (here / path.name).symlink_to(path)
    command = ["dec2vec.cli", "train", CONFIG, *OPTIONS, "--output_dir", str(run)]
    output = side.tree.run(command, here, threads=2)
    (folder / "stdout.txt").write_text(output, encoding="utf-8")
    report = (run / "report" / "report.json").read_text(encoding="utf-8")
    return {
        "table": table(output),
        "report": json.loads(report.replace(str(side.tree.root), "TREE")),
        "metrics": metrics(run),
        "weights": weights_digest(run / "adapter" / "adapter_model.safetensors"),
    }


def table(output: str) -> list[list[str]]:
    """The cells of the printed table, whichever way it is drawn."""
    rows = [re.split(r"\s{2,}|\s*\|\s*", line.strip(" |")) for line in output.splitlines()]
    return [row for row in rows if len(row) > 3 and not set("".join(row)) <= set("-=+:|_ ")]


def compare(old: Facts, new: Facts) -> Iterator[Finding]:
    """The printed table, the report part by part, the metrics of each step and the adapter."""
    rows = [row for row in old["table"] if row not in new["table"]]
    rows += [row for row in new["table"] if row not in old["table"]]
    differ = f"{len(rows)} rows are in one table only, such as {rows[0]}" if rows else ""
    if not rows and old["table"] != new["table"]:
        differ = "the same rows in another order"
    if not old["table"]:
        differ = "no table was found in the output"
    yield Finding("quickstart table", f"{len(old['table'])} rows", differ)
    yield from compare_reports("quickstart report.json", old["report"], new["report"])
    lines = old["metrics"]
    yield Finding("quickstart metrics", f"{len(lines)} lines", lines_differ("line", lines, new["metrics"]))
    differ = "" if old["weights"] == new["weights"] else f"sha256 {old['weights'][:12]} is now {new['weights'][:12]}"
    yield Finding("quickstart adapter", f"sha256 {old['weights'][:12]}", differ)
