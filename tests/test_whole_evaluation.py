"""A real decoder through a whole evaluation: one forward pass a text and prompt, none the second time, none lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dec2vec import Encoder
from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions
from eval.config import EvalConfig
from eval.leakage.training_text import TextSource, read_training_texts
from eval.run import evaluate
from eval.tasks.sts import load_task
from tests.eval_data import passes, write_pairs, write_similarity
from tests.helpers import tiny_model_folder

PROMPTS = ("bare", "knowledge_enhancement")


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    return validate(
        EvalConfig,
        {
            "model": {"name_or_path": str(tiny_model_folder(tmp_path / "model")), "max_length": 160},
            "dev": str(write_similarity(tmp_path / "dev.jsonl", 20, 1)),
            "tests": [str(write_similarity(tmp_path / f"t{seed}.jsonl", 20, seed)) for seed in (3, 4)],
            "fit": [str(write_pairs(tmp_path / "fit.jsonl", 60, 2))],
            "systems": {"prompts": list(PROMPTS), "poolings": ["last"], "post": ["raw", "whiten"]},
            "batch_tokens": 800,
            "bootstrap": 100,
            "output_dir": str(tmp_path / "out"),
        },
    )


def test_one_pass_a_text_and_prompt_for_the_whole_matrix(config: EvalConfig) -> None:
    evaluated = {text for path in (config.dev, *config.tests) for text in load_task(path).test.queries}
    fitted = set(read_training_texts(TextSource(config.fit[0]))) - evaluated
    first = evaluate(config, progress=False)
    assert passes(first) == dict.fromkeys(PROMPTS, len(evaluated) + len(fitted))
    encoder = Encoder.load(config.model)
    for prompt in PROMPTS:
        cost = first.costs[f"untuned: {prompt}"]
        written = sum(map(len, encoder.tokenize([*evaluated, *fitted], prompt=prompt)))
        assert (cost.texts, cost.tokens + cost.spared_tokens) == (len(evaluated) + len(fitted), written)
        assert (cost.spared_tokens > written / 2) == (prompt == "knowledge_enhancement"), (
            "read once, not with each text"
        )
    second = evaluate(config, progress=False)
    assert passes(second) == {} and second.results == first.results


def test_an_interrupted_evaluation_goes_on(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Encoder.iter_views
    seen = {"texts": 0}

    def until_the_second_prompt(self: Encoder, texts: Any, views: Any, options: EncodeOptions) -> Iterator[Any]:
        for rows, vectors in plain(self, texts, views, options):
            if options.prompt == PROMPTS[1] and seen["texts"] > 425:  # among the test texts
                raise KeyboardInterrupt
            seen["texts"] += len(rows)
            yield rows, vectors

    monkeypatch.setattr("eval.results.judged.sample_texts", lambda _: [])  # no text is read to be timed
    whole = evaluate(validate(EvalConfig, {**vars(config), "cache": f"{config.output_dir}/other"}), progress=False)
    monkeypatch.setattr(Encoder, "iter_views", until_the_second_prompt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, progress=False)
    monkeypatch.setattr(Encoder, "iter_views", plain)
    rest = evaluate(config, progress=False)
    total = passes(whole)[PROMPTS[1]]
    assert set(passes(rest)) == {PROMPTS[1]} and 0 < passes(rest)[PROMPTS[1]] < total
    assert [row.system for row in rest.results] == [row.system for row in whole.results]
    for one, two in zip(rest.results, whole.results, strict=True):
        assert one.value == pytest.approx(two.value, abs=1e-6)
