"""Batches that have all positives of each of their queries, and a step on them: drawn, masked and differentiated."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dec2vec.errors import UserError
from tests.peer_files import jsonl
from tests.processes import run_ranks
from tests.tiny_run import fingerprint, metrics_of, train, write_run
from tests.training_setup import data_of, gradients, tiny_encoder
from train.config import BatchConfig, OptimConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData
from train.data.make_sampler import left_out, make_sampler
from train.data.report import _together
from train.data.report import lines as report_lines
from train.data.sampler import Grouped, OneSource, Sampler, shard
from train.data.siblings import find_siblings
from train.data.table import SourceTable
from train.distributed.single import Single
from train.gradcache.cached_step import cached_step
from train.losses.infonce.infonce import infonce
from train.losses.objective import Temperature
from train.options.data import SourceConfig
from train.options.losses import LossConfig

COUNTS = [1, 3, 2, 5, 1, 4, 2, 3, 1, 2, 12, 1]
"""Positives of each query; two of them have more than half a batch."""


def rows_of(counts: list[int], name: str = "q") -> list[tuple[str, ...]]:
    """Rows in no order of queries, with a hard negative that all rows of a query share."""
    rows = [
        (f"{name} {i}", f"answer {j} to {name} {i}", f"no {name} {i}") for i, n in enumerate(counts) for j in range(n)
    ]
    return [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]


def config_of(**batch: object) -> TrainConfig:
    return TrainConfig(
        data=(SourceConfig(),), batch=BatchConfig(**{"size": 8, **batch}), loss=LossConfig(positives="mean"), seed=3
    )


def sampled(config: TrainConfig, *tables: list[tuple[str, ...]]) -> tuple[TrainingData, Sampler]:
    data = data_of(*(SourceTable("pairs", rows) for rows in tables))
    return data, make_sampler(TrainConfig(**{**vars(config), "data": data.sources}), data)


def batches(sampler: Sampler, epoch: int) -> list[list[int]]:
    steps = sampler.steps_per_epoch
    return [sampler.rows(step).tolist() for step in range(epoch * steps, (epoch + 1) * steps)]


@pytest.mark.parametrize("options", [{}, {"no_duplicates": True}], ids=["plain", "no_duplicates"])
def test_a_batch_has_all_rows_of_its_queries(options: dict[str, object]) -> None:
    rows = rows_of(COUNTS)
    _, sampler = sampled(config_of(**options), rows)
    assert isinstance(sampler, Grouped) and left_out(sampler) == 0
    for epoch in range(3):
        found = batches(sampler, epoch)
        assert sorted(row for batch in found for row in batch) == list(range(len(rows)))
        for batch in found:
            counts = Counter(rows[row][0] for row in batch)
            assert len(counts) >= 2 or set(counts) == {"q 10"}  # whose parts may meet
            whole = {name: COUNTS[int(name[2:])] for name in counts}
            assert all(counts[name] == whole[name] for name in counts if whole[name] <= 4)
            assert counts["q 10"] in (0, 4, 8, 12) and counts["q 3"] in (0, 2, 3, 5)
    assert abs(len(rows) / sampler.steps_per_epoch - 8) < 2
    assert batches(sampler, 0) != batches(sampler, 1)
    again = sampled(config_of(**options), rows)[1]
    assert batches(again, 1) == batches(sampler, 1)


def test_without_duplicates_no_text_is_in_two_queries_of_a_batch() -> None:
    rows = [*rows_of(COUNTS), *(("q 0", f"answer {j} to q 1", "x") for j in range(2))]
    _, sampler = sampled(config_of(no_duplicates=True), rows)
    for batch in batches(sampler, 0) + batches(sampler, 1):
        owners: dict[str, set[str]] = {}
        for row in batch:
            for text in rows[row]:
                owners.setdefault(text, set()).add(rows[row][0])
        assert max(map(len, owners.values())) == 1


def test_sources_and_prompts_are_apart() -> None:
    """Equal texts of sources with different prompts are different queries; single sources have batches of their own."""
    rows = rows_of(COUNTS[:8])
    _, single = sampled(config_of(sources="single"), rows, rows)
    assert isinstance(single, OneSource) and all(isinstance(part, Grouped) for part in single.parts)
    for step in range(12):
        drawn = single.rows(step)
        assert len({row // len(rows) for row in drawn.tolist()}) == 1
    prompts = (SourceConfig(query_prompt="a {text}"), SourceConfig(query_prompt="b {text}"))
    data = TrainingData(prompts, (SourceTable("pairs", rows),) * 2, ())
    config = TrainConfig(data=prompts, batch=BatchConfig(size=12), loss=LossConfig(positives="sum"))
    mixed = make_sampler(config, data)
    assert isinstance(mixed, Grouped) and len(mixed.groups) == 16
    with pytest.raises(UserError, match="all its rows have one query"):
        sampled(config_of(size=6), [("only", f"p{i}") for i in range(3)] + [("only", "p4")] * 3)


def test_the_report_tells_of_them() -> None:
    report = {
        "sources": [],
        "left_out_of_first_epoch": 0,
        "rows": 37,
        "steps_per_epoch": 5,
        "windows": 1,
        "together": {"queries": 14, "divided": 0, "most": 5},
    }
    line = "loss.positives: 14 queries, up to 5 positives each; about 7 pairs a step"
    assert report_lines(report) == [line]
    report["together"] = {"queries": 14, "divided": 2, "most": 5}
    assert report_lines(report) == [f"{line}; 2 of the queries have too many for one step and are divided"]


def test_divided_queries_are_counted_once() -> None:
    """With batches of 8, queries of 5 and of 9 pairs have two and three parts."""
    counts = [1, 4, 5, 9, 2, 3]
    _, sampler = sampled(config_of(size=8), rows_of(counts))
    assert isinstance(sampler, Grouped)
    assert _together(sampler) == {"queries": len(counts), "divided": 2, "most": 4}
    assert len(sampler.groups) == len(counts) + 1 + 2


DATA = rows_of([2, 3, 1, 2])


def plain_step(tmp_path: Path, joint: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """The textbook step: each text embedded for itself, sets of texts, autograd through the definition."""
    encoder = tiny_encoder(tmp_path / "tiny")

    def unit(text: str, side: str) -> torch.Tensor:
        (ids,) = encoder.tokenize([text], side=side)
        return F.normalize(encoder.embedder(torch.tensor([ids]), torch.tensor([len(ids)]))[0][0], dim=0)

    queries = sorted({row[0] for row in DATA})
    documents = {text: unit(text, "document") for text in sorted({text for row in DATA for text in row[1:]})}
    losses = []
    for name in queries:
        vector, right = unit(name, "query"), sorted({row[1] for row in DATA if row[0] == name})
        logits = {text: vector @ other / 0.1 for text, other in documents.items()}
        wrong = torch.stack([logits[text] for text in documents if text not in right]).exp().sum()
        found = torch.stack([logits[text] for text in right]).exp()
        share = found.sum() / (found.sum() + wrong) if joint else found / (found + wrong)
        losses.append(-share.log().mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach()), gradients(encoder.embedder)


@pytest.mark.parametrize("positives", ["mean", pytest.param("sum", marks=pytest.mark.slow)])
def test_a_cached_step_is_the_plain_one(tmp_path: Path, positives: str) -> None:
    loss, expected = plain_step(tmp_path, positives == "sum")
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    config, encoder = LossConfig(positives=positives, temperature=0.1), tiny_encoder(tmp_path / "tiny")
    data = data_of(SourceTable("pairs", DATA))
    options = {"losses": (config,), "siblings": find_siblings(data, str)}
    batch = prepare(data, np.arange(len(DATA)), encoder, BatchOptions(60, **options))
    step = partial(infonce, rows=batch.loss_inputs, temperature=Temperature(config.temperature, learned=False))
    for tiles in (True, False):
        together = partial(step, config=config, tiles=tiles)
        result = cached_step(Single(encoder.embedder), batch.chunks, together, graph_tokens=100)
        found = gradients(encoder.embedder)
        assert float(result.loss) == pytest.approx(loss, rel=1e-5)
        assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-5 * scale) for name in expected)
    each = partial(step, config=LossConfig(temperature=0.1))  # the control
    result = cached_step(Single(encoder.embedder), batch.chunks, each, graph_tokens=100)
    assert abs(float(result.loss) - loss) > 1e-3


def losses_of_rank(folder: Path) -> list[float]:
    return [loss_of_rank(folder, LossConfig(positives=positives, temperature=0.1)) for positives in ("mean", "sum")]


def loss_of_rank(folder: Path, config: LossConfig) -> float:
    rank = torch.distributed.get_rank()
    data = data_of(SourceTable("pairs", DATA))
    options = BatchOptions(256, losses=(config,), siblings=find_siblings(data, str), rank=rank, world=2)
    encoder = tiny_encoder(folder / "tiny")
    batch = prepare(data, np.arange(len(DATA)), encoder, options)
    assert batch.pairs == len(shard(np.arange(len(DATA)), rank, 2))
    step = partial(
        infonce, rows=batch.loss_inputs, config=config, temperature=Temperature(config.temperature, learned=False)
    )
    with torch.no_grad():
        vectors = torch.cat([encoder.embedder(chunk.input_ids, chunk.lengths)[0] for chunk in batch.chunks])
    order = torch.cat([chunk.rows for chunk in batch.chunks])
    return float(step(torch.empty_like(vectors).index_copy(0, order, vectors)).loss)


def test_a_query_may_be_divided_between_processes(tmp_path: Path) -> None:
    expected = [plain_step(tmp_path, joint)[0] for joint in (False, True)]
    assert run_ranks(2, losses_of_rank, tmp_path) == [pytest.approx(expected, rel=1e-5)] * 2


@pytest.mark.slow
def test_a_run_from_flag_embedding_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its end, the same once more, and from its checkpoint at step 3."""
    rows: list[object] = [
        {"query": f"what is {i}", "pos": [f"it is {i}{c}" for c in "abc"[: 1 + i % 3]], "neg": [f"not {i}"]}
        for i in range(20)
    ]
    jsonl(tmp_path / "flag.jsonl", rows)
    path = write_run(
        tmp_path,
        data=(SourceConfig(path="flag.jsonl"),),
        loss=LossConfig(positives="mean"),
        optim=OptimConfig(steps=6, lr=1e-2),
        eval=TrainConfig().eval,
    )
    monkeypatch.chdir(tmp_path)
    train(path, tmp_path / "whole")
    train(path, tmp_path / "parts")
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")
    for newest in sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(newest)
    train(path, tmp_path / "parts")  # from step 3
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    assert len(metrics_of(tmp_path / "whole")) >= 6
