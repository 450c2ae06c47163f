"""The core alone, without the packages of any extra, trains, scores dev, reports, exports and mines to the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dec2vec.cli import main as dec2vec
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, write_jsonl
from tests.processes import run_alone
from tests.test_retrieval import collection
from tests.tiny_run import train, write_run

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
EXTRAS = {"faiss", "gensim", "mteb", "nltk", "pandas", "rouge_score", "sacrebleu", "smart_open", "tensorboard"} | {
    "bm25s",
    "Stemmer",
}


class NotInstalled:
    """A finder of `sys.meta_path` that does not see the packages of the extras."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return None if name.partition(".")[0] in EXTRAS else self._finder.find_spec(name, path, target)


def without_extras() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in EXTRAS]:
        del sys.modules[name]
    sys.meta_path = [NotInstalled(finder) for finder in sys.meta_path]


def whole_run(folder: Path) -> dict[str, Any]:
    """Everything from training to a second evaluation, in the core alone; the report of that evaluation."""
    without_extras()
    with pytest.raises(ModuleNotFoundError):
        import faiss  # noqa: F401
    os.chdir(folder)
    train(folder / "run.yaml", folder / "out", "--eval.tests", "test.jsonl", "--eval.after_training", "true")
    assert (folder / "out" / "report" / "report.html").is_file()
    assert (folder / "out" / "model" / "modules.json").is_file()
    assert dec2vec(["eval", "eval.yaml"]) == 0
    mine = ["mine", "pairs.jsonl", "--model", "out", "--output", "mined.jsonl", "--negatives", "1", "--device", "cpu"]
    assert dec2vec(mine) == 0
    report: dict[str, Any] = json.loads((folder / "evaluated" / "report" / "report.json").read_text(encoding="utf-8"))
    return report


@pytest.mark.slow
def test_from_training_to_the_report(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", graded_pairs(24, seed=3))
    (tmp_path / "retrieval").mkdir()
    collection(tmp_path / "retrieval")
    (tmp_path / "eval.yaml").write_text(
        "model: {name_or_path: decoder, max_length: 64, device: cpu}\n"
        "tuned: [out]\n"
        "dev: dev.jsonl\n"
        "tests: [test.jsonl]\n"
        "retrieval: [{path: retrieval}]\n"
        "systems: {prompts: [bare], poolings: [last], post: [raw]}\n"
        "baselines: [tfidf, bleu, word2vec, bm25]\n"
        "fit: [pairs.jsonl]\n"
        "cache: ''\n"
        "output_dir: evaluated\n",
        encoding="utf-8",
    )
    report = run_alone(whole_run, tmp_path)
    text = json.dumps(report)
    assert "nDCG@10" in text and "tfidf" in text
    assert "bleu: not computed; pip install 'dec2vec[eval]'" in text
    assert "word2vec: not computed; pip install 'dec2vec[eval]'" in text
    assert "bm25: not computed; pip install 'dec2vec[eval]'" in text
