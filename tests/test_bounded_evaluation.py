"""A large evaluation on one machine: what it reads, keeps, shows and needs, and that it goes on when killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import eval.cache.vector_cache
from dec2vec import Encoder
from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from eval.baselines.effort import UNKNOWN, baseline_effort, card_note, named_notes
from eval.baselines.sparse import tfidf
from eval.cache.room import Stored, check_room, folder_size
from eval.config import EvalConfig
from eval.report.quality_and_cost import quality_and_cost
from eval.results.effort import used_parameters
from eval.run import evaluate
from eval.selection.ahead import Ahead
from tests.eval_data import passes, write_pairs, write_similarity
from tests.helpers import tiny_model_folder
from tests.processes import exit_code_alone

PROMPTS = ["bare", "prompteol"]


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    return validate(
        EvalConfig,
        {
            "model": {"name_or_path": str(tiny_model_folder(tmp_path / "model")), "max_length": 160},
            "dev": str(write_similarity(tmp_path / "dev.jsonl", 20, 1)),
            "tests": [str(write_similarity(tmp_path / "t.jsonl", 120, 3))],
            "fit": [str(write_pairs(tmp_path / "fit.jsonl", 40, 2))],
            "systems": {"prompts": PROMPTS, "poolings": ["last", "mean"], "layers": [0, 1], "post": ["raw", "whiten"]},
            "baselines": ["tfidf", "jaccard"],
            "batch_tokens": 400,
            "bootstrap": 100,
            "output_dir": str(tmp_path / "out"),
        },
    )


def killed_in_the_tests_of(prompt: str, config: EvalConfig, counted: Path) -> None:
    """Ends its own process by SIGKILL once 100 texts of the tests have been read with `prompt`."""
    plain, seen = Encoder.iter_views, 0

    def counting(self: Encoder, texts: Any, views: Any, options: EncodeOptions) -> Iterator[Any]:
        nonlocal seen
        for rows, vectors in plain(self, texts, views, options):
            if options.prompt == prompt and len(texts) > 150:
                if seen > 100:
                    counted.write_text(str(seen))
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += len(rows)
            yield rows, vectors

    Encoder.iter_views = counting  # type: ignore[method-assign]
    eval.cache.vector_cache.COMMIT_SECONDS = 0.0
    evaluate(config, progress=False)


def test_killed_and_repeated_it_reads_what_is_missing(config: EvalConfig, tmp_path: Path) -> None:
    elsewhere = validate(EvalConfig, {**vars(config), "cache": str(tmp_path / "other")})
    whole = evaluate(elsewhere, progress=False)
    counted = tmp_path / "counted"
    assert exit_code_alone(killed_in_the_tests_of, PROMPTS[1], config, counted) == -signal.SIGKILL
    rest = evaluate(config, progress=False)
    in_tests = len({text for path in config.tests for text in _texts(path)} - set(_texts(config.dev)))
    assert passes(rest) == {PROMPTS[1]: in_tests - int(counted.read_text())}
    assert [row.system for row in rest.results] == [row.system for row in whole.results]
    np.testing.assert_allclose([row.value for row in rest.results], [row.value for row in whole.results], atol=1e-4)


def _texts(path: str) -> list[str]:
    from eval.tasks.sts import load_task

    return load_task(path).test.queries


def test_one_pass_for_all_views_that_ends_at_the_highest_layer(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four views of layers 0 and 1: block 0 runs once a chunk. The block above runs for the first trials alone."""
    plain, rows, counting = Encoder.load.__func__, dict.fromkeys(range(9), 0), False  # type: ignore[attr-defined]
    stream = Encoder.iter_views

    def hooked(cls: type[Encoder], *args: Any, **options: Any) -> Encoder:
        encoder: Encoder = plain(cls, *args, **options)
        blocks = decoder_blocks(encoder.embedder.backbone, encoder.layer_count)
        assert blocks is not None

        def count(index: int) -> Any:
            def add(_: object, __: object, output: Any) -> None:
                rows[index] += counting * (output[0] if isinstance(output, tuple) else output).shape[0]

            return add

        for index, block in enumerate(blocks):
            block.register_forward_hook(count(index))
        return encoder

    def streamed(self: Encoder, texts: Any, views: Any, options: EncodeOptions) -> Iterator[Any]:
        nonlocal counting
        counting = len(texts) > 1  # a trial of one text asks whether a prompt can be used
        yield from stream(self, texts, views, options)
        counting = False

    monkeypatch.setattr(Encoder, "load", classmethod(hooked))
    monkeypatch.setattr(Encoder, "iter_views", streamed)
    monkeypatch.setattr("eval.results.judged.sample_texts", lambda _: [])  # nothing is timed
    report = evaluate(config, progress=False)
    texts = sum(passes(report).values())
    assert not any(rows[index] for index in range(1, 9)), "only layers 0 and 1 are asked for"
    assert texts <= rows[0] <= texts + 2 * len(PROMPTS), "each text once, and beginnings that texts share"


def test_the_bar_ends_where_the_reading_ends(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan, made before anything is read, is close to what is read; a second evaluation has nothing left."""
    totals: list[tuple[int, int]] = []

    class Seen(Ahead):
        def plan(self, *args: Any) -> None:
            super().plan(*args)
            totals.append((int(self._bar.n), self.total))

        def close(self) -> None:
            totals.append((int(self._bar.n), self.total))
            super().close()

    monkeypatch.setattr("eval.run.Ahead", Seen)
    monkeypatch.setattr("dec2vec.runtime._DELAY", 1e9)
    report = evaluate(config)
    read = sum(cost.tokens for cost in report.costs.values())
    (begun, planned), (ended, total) = totals
    assert begun == 0 and planned == pytest.approx(read, rel=0.1)
    assert read <= ended == total <= 1.2 * read, "the timed sample is read besides"
    totals.clear()
    again = evaluate(config)
    assert passes(again) == {} and totals[0][1] == planned and totals[-1][0] == totals[-1][1] < 0.4 * planned


def test_time_on_kept_vectors_is_no_time_of_reading(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of choosing among kept vectors, then half of all tokens in 10 s: the other half takes 10 s more."""
    clock = [1000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    monkeypatch.setattr("dec2vec.runtime._DELAY", 1e9)
    encoder, ahead, unit = Encoder.load(config.model), Ahead(show=True), (None, "bare")
    ahead._bar._time, ahead._bar.start_t = (lambda: clock[0]), clock[0]
    ahead.watch(encoder)
    parts = [[f"{index} {word}" for index in range(40)] for word in ("one", "two", "three")]
    ahead.plan([unit], parts)
    clock[0] += 60
    ahead.passed(unit, parts[0])
    left = ahead.total
    clock[0] += 10
    encoder.tally.add(left // 2)
    ahead.passed(unit, parts[1])
    assert ahead.total == pytest.approx(left, rel=0.05)
    assert ahead._bar.format_dict["elapsed"] == 10
    ahead.close()


def test_a_prompt_without_room_for_a_text_is_no_reading(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is skipped with a warning, as without a bar; the others are planned."""
    monkeypatch.setattr("dec2vec.runtime._DELAY", 1e9)
    encoder, ahead = Encoder.load(replace(config.model, max_length=12)), Ahead(show=True)
    with pytest.raises(UserError, match="needs"):
        encoder.encode(["a"], prompt="knowledge_enhancement")
    ahead.watch(encoder)
    ahead.plan([(None, "knowledge_enhancement")], [["a text", "another"]])
    assert ahead.total == 0
    ahead.plan([(None, "bare")], [["a text", "another"]])
    assert ahead.total > 0
    ahead.close()


def test_a_disk_that_would_fill_up_is_refused_before_anything_is_read(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 0, 10_000))
    with pytest.raises(UserError, match=r"take at least 0\.0 GB, and the disk has 0\.0 GB left; use fewer systems\."):
        evaluate(config, progress=False)
    assert folder_size(tmp_path / "out") < 100
    check_room(tmp_path, [Stored(1, 10, 4)], 16)
    with pytest.raises(UserError):
        check_room(tmp_path, [Stored(1, 1000, 4)], 16)


@pytest.mark.slow
def test_the_least_size_is_close_to_the_size(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[int] = []
    monkeypatch.setattr(
        "eval.results.judged.check_room",
        lambda _, stored, width: wanted.append(sum(item.size(width) for item in stored)),
    )
    report = evaluate(config, progress=False)
    size = report.provenance["vectors_on_disk_bytes"]
    assert isinstance(size, int) and 0.5 * size < wanted[0] < 1.05 * size


def test_quality_stands_beside_cost(config: EvalConfig) -> None:
    report = evaluate(config, progress=False)
    encoder = Encoder.load(config.model)
    backbone: Any = encoder.embedder.backbone
    for name, effort in report.efforts.items():
        assert effort.note == ""
        if name == "baseline/jaccard":
            assert (effort.parameters, effort.dimension, effort.texts_per_second) == (None, None, None)
            continue
        assert effort.texts_per_second is not None and effort.texts_per_second > 0
        if name != "baseline/tfidf":
            top = int(name.partition("@")[2].partition("+")[0])
            above = sum(p.numel() for block in backbone.layers[top:] for p in block.parameters())
            assert effort.parameters == sum(p.numel() for p in backbone.parameters()) - above
            assert effort.dimension == (16 if "+" not in name else int(name.rpartition("-")[2]))
    assert used_parameters(encoder, View("mean", 0)) < used_parameters(encoder, View("mean", 2))
    (section,) = quality_and_cost(report)
    table = section.blocks[-1]
    assert {row[0] for row in table.rows} == set(report.systems) == set(report.efforts)


def test_what_a_peer_was_trained_on(tmp_path: Path) -> None:
    """By its model card, or in the user's words."""
    assert card_note(tmp_path) == UNKNOWN
    card = tmp_path / "README.md"
    for text in ("# A model", "---\nlanguage: en\n---\n", "---\n: [\n---\n", "---\ndatasets: snli\n---\n"):
        card.write_text(text)
        assert card_note(tmp_path) == UNKNOWN
    card.write_text("---\nlanguage: en\ndatasets:\n- snli\n- embedding-data/QQP\n---\n\n# A model\n---\n")
    assert card_note(tmp_path) == "its model card names as training data: snli, embedding-data/QQP"
    baseline = tfidf()
    baseline.fit(["a cat", "a dog"])
    notes = named_notes(["tfidf: counts: nothing more"], [baseline])
    assert baseline_effort(baseline, ["a cat"], notes).note == "counts: nothing more"
    for wrong in ("bm25: fine", "tfidf:", "tfidf"):
        with pytest.raises(UserError, match=r"baseline_notes: .* must be NAME: TEXT, where NAME is one of tfidf"):
            named_notes([wrong], [baseline])
