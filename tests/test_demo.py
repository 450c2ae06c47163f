"""The embedded default is what its card says: sizes, and no sentence shared between training and evaluation."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModel

from eval.leakage.normal_form import normalized
from eval.tasks.sts import read_similarity
from train.data.dataset import load_data
from train.options.data import SourceConfig

DEMO = Path(__file__).parent.parent / "dec2vec" / "demo"


def test_sizes_and_no_shared_sentence() -> None:
    pairs = load_data([SourceConfig(path=str(DEMO / "train.jsonl"))])
    dev, test = (read_similarity(DEMO / f"{name}.jsonl") for name in ("dev", "test"))
    assert len(pairs) >= 600 and sum(len(texts) > 2 for texts in pairs.tables[0].texts) >= 200
    assert len(dev.scores) + len(test.scores) >= 200
    assert min(dev.scores.min(), test.scores.min()) >= 0 and max(dev.scores.max(), test.scores.max()) <= 5
    trained = {text for texts in pairs.tables[0].texts for text in texts}
    sides = [trained, {*dev.sentences1, *dev.sentences2}, {*test.sentences1, *test.sentences2}]
    seen = [{normalized(text) for text in side} for side in sides]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_decoder_is_the_one_of_the_card() -> None:
    model = AutoModel.from_pretrained(DEMO / "decoder", dtype="auto")
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_999_744
    assert "7,999,744" in (DEMO / "decoder" / "README.md").read_text(encoding="utf-8")
