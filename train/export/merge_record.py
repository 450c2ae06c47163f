"""`merge.json`: which runs `dec2vec merge` merged, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dec2vec.errors import UserError

RECORD = "merge.json"


def record_text(runs: Sequence[Path], weights: Sequence[float], method: str, form: Mapping[str, object]) -> str:
    """JSON with the runs, their weights, and the form of the merged weights."""
    record = {"runs": [str(run.resolve()) for run in runs], "weights": list(weights), "method": method, **form}
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def describe_merge(run: Path) -> str:
    """A sentence for the model card, without local paths; "" for a run that was not merged."""
    if not (run / RECORD).is_file():
        return ""
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        parts = [
            f"`{Path(name).name}` ({weight:.3g})"
            for name, weight in zip(record["runs"], record["weights"], strict=True)
        ]
        first = Path(record["runs"][0]).name
        return (
            f"Merged ({record['method']}) from {', '.join(parts)}. The data are those of all of them, `lora` describes "
            f"the merged adapter, and the other options are those of `{first}`."
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{run / RECORD}: damaged ({type(error).__name__}); merge the runs again") from None
