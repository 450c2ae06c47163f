"""Distillation of a reranker's scores: against sentence-transformers, a float64 loop, and from files to the loss."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from dec2vec.batching import Chunk
from dec2vec.cli import main
from dec2vec.errors import UserError
from tests.helpers import tiny_tokenizer
from tests.peer_files import jsonl
from tests.processes import run_ranks
from tests.test_mine import ROWS as PAIRS
from tests.test_mine import place as place
from tests.tiny_run import metrics_of, train, write_run
from tests.training_setup import tiny_encoder
from train.config import EvalSection, LoraConfig, OptimConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData, load_data
from train.data.row_extras import Extras, extras_of
from train.losses.compute import one_loss
from train.losses.inputs import NO_ANCHOR, NO_ID, PairInputs, ScoredDocuments
from train.losses.objective import Objective, Temperature
from train.mining.pairs import read_material
from train.options.data import SourceConfig
from train.options.losses import LossConfig

NAN = math.nan
SCORES = [[6.0, 1.5, -2.0], [3.0, 4.0, NAN], [NAN, 0.5, 0.2], [2.0, NAN, NAN], [NAN, 1.0, NAN]]
"""Logits of a positive and two negatives: all, one that is missing, that of the positive, and rows with one score."""
KL = LossConfig(kind="distil_reranker", temperature=0.2, score_temperature=2.0, learn_temperature=True)
MARGIN = replace(KL, distance="margin", score_temperature=1.0)


def vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator, dtype=torch.float64)


def rows(scores: list[list[float]], first: int = 0) -> PairInputs:
    """Row i of the whole batch has query 4 i, a positive, and two negatives after it."""
    places = 4 * (first + torch.arange(len(scores)))
    documents = places[:, None] + torch.tensor([1, 2, 3])
    nothing = torch.full((len(scores),), NO_ID)
    return PairInputs(
        anchors=places,
        documents=torch.cat([documents[:, 0], documents[:, 1:].flatten()]),
        anchor_keys=places,
        document_keys=torch.cat([documents[:, 0], documents[:, 1:].flatten()]),
        document_anchors=torch.cat([places, torch.full((2 * len(scores),), NO_ANCHOR)]),
        document_ids=torch.cat([nothing, nothing, nothing]),
        scored=ScoredDocuments(documents, torch.tensor(scores, dtype=torch.float64)) if scores else None,
    )


def loop(x: Tensor, scores: list[list[float]], config: LossConfig, tau: Tensor) -> Tensor:
    losses = []
    for row, given in enumerate(scores):
        present = [place for place, score in enumerate(given) if not math.isnan(score)]
        if len(present) < 2 or (config.distance == "margin" and 0 not in present):
            continue
        query = x[4 * row] / x[4 * row].norm()
        logits = {i: query @ x[4 * row + 1 + i] / x[4 * row + 1 + i].norm() / tau for i in present}
        teacher = {i: given[i] for i in present}
        if config.score_scale == "probability":
            clipped = {i: min(max(score, 1e-6), 1 - 1e-6) for i, score in teacher.items()}
            teacher = {i: math.log(p / (1 - p)) for i, p in clipped.items()}
        if config.distance == "margin":
            parts = [(logits[0] - logits[i] - (teacher[0] - teacher[i])) ** 2 for i in present if i]
            losses.append(sum(parts, torch.zeros(())) / len(parts))
            continue
        wanted = {i: math.exp(score / config.score_temperature) for i, score in teacher.items()}
        whole, log_whole = sum(wanted.values()), torch.stack([*logits.values()]).exp().sum().log()
        losses.append(sum(wanted[i] / whole * (math.log(wanted[i] / whole) - logits[i] + log_whole) for i in present))
    return torch.stack(losses).mean()


def found(x: Tensor, given: PairInputs, config: LossConfig) -> Objective:
    return one_loss(x, given, config, Temperature(config.temperature, learned=True).double())


def check(objective: Objective, loss: Tensor, leaves: list[Tensor]) -> None:
    gradients = torch.autograd.grad(loss, leaves)
    for one, other in zip(vars(objective).values(), (loss.detach(), *gradients), strict=False):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-6, atol=1e-9)  # a temperature is a float32


PROBABILITIES = [[1 / (1 + math.exp(-score)) for score in given] for given in SCORES[:3]] + [[1.0, 0.0, 0.3]]


@pytest.mark.parametrize(
    ("config", "scores"),
    [
        (KL, SCORES),
        (MARGIN, SCORES),
        (replace(KL, score_scale="probability"), PROBABILITIES),
        (replace(MARGIN, score_scale="probability"), PROBABILITIES),
    ],
    ids=["kl", "margin", "kl of probabilities", "margin of probabilities"],
)
def test_loss_and_gradients_against_a_loop(config: LossConfig, scores: list[list[float]]) -> None:
    x = vectors(4 * len(scores)).requires_grad_()
    log_tau = Temperature(config.temperature, learned=True).double().log_value
    objective = found(x, rows(scores), config)
    check(objective, loop(x, scores, config, log_tau.exp()), [x, log_tau])
    assert objective.embedding_gradient.abs().max() > 1e-3
    turned = [[*given[1:], given[0]] for given in scores]  # the control: the scores of other documents
    assert abs(found(x, rows(turned), config).loss - objective.loss) > 1e-3


def test_values_and_gradients_of_sentence_transformers() -> None:
    """Their KL has the factor temperature squared; their margins are of a similarity that the caller gives."""
    x, scores = vectors(16).requires_grad_(), [[6.0, 1.5, -2.0], [3.0, 4.0, 1.0], [1.0, 0.5, 0.2], [2.0, -3.0, 0.0]]
    parts, labels = list(x.view(4, 4, 6).unbind(1)), torch.tensor(scores, dtype=torch.float64)

    def cosines(a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a, b, dim=1)

    theirs = DistillKLDivLoss(None, similarity_fct=cosines, student_temperature=0.2, teacher_temperature=2.0)
    loss = theirs.compute_loss_from_embeddings(parts, labels) / 0.2**2
    check(found(x, rows(scores), KL), loss, [x])
    margins = MarginMSELoss(None, similarity_fct=lambda a, b: cosines(a, b) / 0.2)
    check(found(x, rows(scores), MARGIN), margins.compute_loss_from_embeddings(parts, labels), [x])


def of_rank(counts: tuple[int, ...]) -> list[Objective]:
    start = sum(counts[: dist.get_rank()])
    given = rows(SCORES[start : start + counts[dist.get_rank()]], start)
    return [found(vectors(20), given, config) for config in (KL, MARGIN)]


def test_ranks_equal_one_process() -> None:
    """A rank may have no row, or rows without scores."""
    whole = [found(vectors(20), rows(SCORES), config) for config in (KL, MARGIN)]
    for counts in ((1, 0, 4), (3, 2)):
        ranks = run_ranks(len(counts), of_rank, counts)
        for number, expected in enumerate(whole):
            total = torch.stack([rank[number].embedding_gradient for rank in ranks]).sum(0)
            torch.testing.assert_close(total, expected.embedding_gradient)
            torch.testing.assert_close(ranks[-1][number].loss, expected.loss)


# from files to the loss

FLAG: list[object] = [
    {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1", "n2"], "pos_scores": [5.0, 4], "neg_scores": [1.5, -2]},
    {"query": "q2", "pos": ["p3"], "neg": ["n3"], "pos_scores": None, "neg_scores": None},
    {"query": "q3", "pos": ["p4"], "neg": ["n4"], "pos_scores": [2.5], "neg_scores": [3.5]},
]


def read(path: Path, scale: str = "logit", **options: Any) -> TrainingData:
    config = TrainConfig(
        data=(SourceConfig(str(path), **options),), loss=LossConfig(kind="distil_reranker", score_scale=scale)
    )
    return load_data(config.data, extras=[extras_of(config, source) for source in config.data])


def known(data: TrainingData) -> list[list[float | None]]:
    return [[None if math.isnan(score) else score for score in row] for row in data.tables[0].document_scores]


def test_scores_of_peers(tmp_path: Path) -> None:
    data = read(jsonl(tmp_path / "flag.jsonl", FLAG))
    assert known(data) == [[5.0, 1.5, -2.0], [4.0, 1.5, -2.0], [None, None], [2.5, 3.5]]
    assert data.told[0].layout[-1] == "scores of a reranker in 3 of 4 pairs" and data.told[0].unused is None
    triplet: dict[str, object] = {"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": None}
    full: list[object] = [
        {**triplet, "anchor": "a0", "scores": [2, 1]},
        {**triplet, "anchor": "a1", "label": [2.0, 1.0, None]},
        {**triplet, "anchor": "a4", "negative_2": "d", "scores": [3, None, 2]},
        {**triplet, "anchor": "a6", "positive": "e", "label": "news"},
        {**triplet, "anchor": "a7", "negative_2": "d", "score": 0.9},
    ]
    found = known(read(jsonl(tmp_path / "full.jsonl", full)))
    assert found == [[2.0, 1.0], [2.0, 1.0], [3.0, None, 2.0], [None, None], [None] * 3]
    margins: list[object] = [
        {**triplet, "anchor": "a2", "positive": "e", "label": 0.75},
        {**triplet, "anchor": "a3", "score": [-0.5]},
        {**triplet, "anchor": "a5", "negative_2": "d", "scores": [1.5, 2.5]},
        {**triplet, "anchor": "a8", "scores": [1.5, None]},
    ]
    data = read(jsonl(tmp_path / "margins.jsonl", margins))
    assert known(data) == [[0.0, -0.75], [0.0, 0.5], [0.0, -1.5, -2.5], [0.0, -1.5]]
    assert data.told[0].layout[-1] == "margins of a reranker (by how much the positive is ahead) in 4 of 4 pairs"
    ours: list[object] = [
        {**triplet, "anchor": f"a{i}", "positive": f"b{i}", "teacher_scores": scores, "label": 3}
        for i, scores in enumerate([[1, 2], None])
    ]
    assert known(read(jsonl(tmp_path / "ours.jsonl", ours))) == [[1.0, 2.0], [None, None]]
    (tmp_path / "t.csv").write_text("anchor,positive,negative,score\na,b,c,1.5\nd,e,f,\n")
    assert known(read(tmp_path / "t.csv")) == [[0.0, -1.5], [None, None]]


def test_what_is_not_used_is_no_part_of_the_data(tmp_path: Path) -> None:
    """Runs of earlier versions have the hash of their texts alone."""
    path = jsonl(tmp_path / "flag.jsonl", FLAG)
    plain = load_data([SourceConfig(str(path))])
    bare = [{"query": row["query"], "pos": row["pos"], "neg": row["neg"]} for row in FLAG if isinstance(row, dict)]
    assert plain.content_hash == load_data([SourceConfig(str(jsonl(tmp_path / "bare.jsonl", bare)))]).content_hash
    assert plain.told[0].unused is not None and "pos_scores (scores of the texts" in plain.told[0].unused
    assert read(path).content_hash != plain.content_hash
    assert extras_of(TrainConfig(), SourceConfig(str(path))) == Extras()


@pytest.mark.parametrize(
    ("row", "scale", "message"),
    [
        (
            {"teacher_scores": [1, 2, 3]},
            "logit",
            "t.jsonl: 2 of 2 rows: 2 with scores of another length .* data.0.bad_rows",
        ),
        ({"teacher_scores": ["high", 1]}, "logit", "'high' in place of a number"),
        (
            {"teacher_scores": [1.5, 0.5]},
            "probability",
            r"\[1.5, 0.5\] has numbers, but not all from 0 to 1; use loss.sc",
        ),
        ({"label": 0.5}, "probability", "label 0.5 has margins; use loss.score_scale logit"),
        (
            {"score": None},
            "logit",
            "no row has .*teacher_scores, scores, score, labels, label, or FlagEmb.* mine --rescore",
        ),
    ],
)
def test_scores_that_are_refused(tmp_path: Path, row: dict[str, object], scale: str, message: str) -> None:
    texts: list[object] = [{"anchor": f"a{i}", "positive": f"b{i}", "negative": "c", **row} for i in range(2)]
    with pytest.raises(UserError, match=message):
        read(jsonl(tmp_path / "t.jsonl", texts), scale)


def test_numbers_that_may_be_probabilities_are_pointed_out(tmp_path: Path) -> None:
    texts: list[object] = [
        {"anchor": f"a{i}", "positive": f"b{i}", "negative": "c", "scores": [0.9, 0.1]} for i in range(2)
    ]
    path = jsonl(tmp_path / "t.jsonl", texts)
    assert "set score_scale probability if that is" in read(path).told[0].layout[-1]
    assert "probability" not in read(path, "probability").told[0].layout[-1]


def test_a_batch_has_the_scores_beside_the_documents_that_they_are_of(tmp_path: Path) -> None:
    """With vectors of the texts themselves, row by row from the file."""
    data, encoder = read(jsonl(tmp_path / "flag.jsonl", FLAG)), tiny_encoder(tmp_path / "tiny")
    config = replace(KL, learn_temperature=False)
    batch = prepare(data, np.array([1, 3, 2]), encoder, BatchOptions(256, losses=(config,)))
    texts = [encoder.tokenize([text])[0] for text in ("q1", "p2", "n1", "n2", "q3", "p4", "n4", "n4")]
    sequences = {row: ids for chunk in batch.chunks for row, ids in _sequences(chunk)}
    x = vectors(len(sequences), 3)
    ordered = torch.stack([x[next(row for row, ids in sequences.items() if ids == text)] for text in texts])
    expected = loop(ordered, [[4.0, 1.5, -2.0], [2.5, 3.5, NAN]], config, torch.tensor(0.2))
    torch.testing.assert_close(found(x, batch.loss_inputs, config).loss, expected)


def _sequences(chunk: Chunk) -> list[tuple[int, list[int]]]:
    rows = zip(chunk.rows.tolist(), chunk.input_ids.tolist(), chunk.lengths.tolist(), strict=True)
    return [(row, ids[:length]) for row, ids, length in rows]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"teacher_scores": [3.5]}, [0.0, -3.5]),
        ({"teacher_scores": 3.5}, [0.0, -3.5]),
        ({"label": 3.5}, [0.0, -3.5]),
        ({"scores": [3.5, None]}, [3.5, None]),
        ({"labels": ["news", "sport"]}, None),
    ],
)
def test_mine_keeps_scores_and_margins(tmp_path: Path, given: dict[str, object], expected: object) -> None:
    rows: list[Any] = [{"anchor": f"a{i}", "positive": f"b{i}", "negative_1": "n", **given} for i in range(3)]
    material = read_material(str(jsonl(tmp_path / "t.jsonl", rows)))
    assert list(material.teacher_scores) == [expected] * 3
    assert material.other_columns == [{} if "teacher_scores" in given else given] * 3
    rows[1]["teacher_scores"] = [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match=r"t.jsonl line 2: teacher_scores has 3 numbers in place of \d .*write null"):
        read_material(str(jsonl(tmp_path / "t.jsonl", rows)))


# scores computed by dec2vec mine


def tiny_cross_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_mine_writes_the_scores_of_a_cross_encoder(place: Path) -> None:
    folder = tiny_cross_encoder(place / "reranker")
    output = place / "scored.jsonl"
    command = ["mine", str(place / "pairs.jsonl"), "--model", str(place / "decoder"), "--device", "cpu"]
    command += ["--max_length", "64", "--output", str(output), "--ratio", "1", "--negatives", "2"]
    assert main([*command, "--rescore", str(folder)]) == 0
    mined = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    model = CrossEncoder(str(folder), device="cpu")
    for row in mined:
        names = sorted(name for name in row if name.startswith("negative_") and name != "negative_scores")
        texts = [row["positive"], *(row[name] for name in names)]
        logits = model.predict([(row["anchor"], text) for text in texts], activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(row["teacher_scores"], logits, rtol=1e-4, atol=1e-5)
    assert len(mined) == len(PAIRS) and len({score for row in mined for score in row["teacher_scores"]}) > 8
    assert known(read(output)) == [row["teacher_scores"] for row in mined]
    again = place / "again.jsonl"  # mining more leaves what is known, and says nothing of new texts
    assert main([*command[:1], str(output), *command[2:8], "--output", str(again), "--ratio", "1"]) == 0
    for row, before in zip(map(json.loads, again.read_text(encoding="utf-8").splitlines()), mined, strict=True):
        assert row["teacher_scores"][: len(before["teacher_scores"])] == before["teacher_scores"]
        assert set(row["teacher_scores"][len(before["teacher_scores"]) :]) <= {None}


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["kl", "margin"])
def test_a_run_on_what_mine_has_scored(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    """Beside InfoNCE with the positives of a query together; the loss is the weighted sum of both."""
    folder = tiny_cross_encoder(place / "reranker")
    command = ["mine", str(place / "pairs.jsonl"), "--model", str(place / "decoder"), "--device", "cpu", "--ratio", "1"]
    assert main([*command, "--output", str(place / "run.jsonl"), "--rescore", str(folder), "--max_length", "64"]) == 0
    losses = LossConfig(positives="mean"), LossConfig(kind="distil_reranker", distance=distance, weight=0.5)
    first = []
    monkeypatch.chdir(tmp_path)
    for number, chosen in enumerate((losses[:1], losses[1:], losses)):
        data = (SourceConfig(path=str(place / "run.jsonl"), losses=chosen),)
        config = write_run(
            tmp_path,
            data=data,
            loss=LossConfig(),
            lora=LoraConfig(rank=4),
            optim=OptimConfig(steps=2),
            eval=EvalSection(),
        )
        output = tmp_path / f"out-{number}"
        train(config, output)
        first.append(metrics_of(output)[0]["loss"])
    assert first[2] == pytest.approx(first[0] + first[1], rel=1e-5) and min(first) > 1e-6
