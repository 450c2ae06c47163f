"""Rows of every kind, from the file over the cleaning to the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import get_prompt
from eval.leakage.trained_on import _run_data
from eval.leakage.training_text import read_training_texts
from tests.helpers import write_jsonl
from tests.training_setup import data_of, tiny_encoder
from train.config import BatchConfig, LoraConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.dataset import content_hash, load_data
from train.data.make_sampler import make_sampler
from train.data.prompted_input import text_keys
from train.data.report import describe, lines
from train.data.sampler import Mixed
from train.data.table import SourceTable
from train.export.card_data import describe_data
from train.losses.inputs import NO_ID, GradedInputs, LabelledInputs, PairInputs
from train.options.data import SourceConfig
from train.options.losses import LossConfig

GRADED = [{"sentence1": f"s{i}", "sentence2": f"t{i}", "score": i / 2} for i in range(4)]
LABELLED = [{"text": f"s{i}", "label": i // 2} for i in range(6)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"), lora=LoraConfig(rank=4, dropout=0.1))


def source(folder: Path, rows: list[dict[str, object]], **options: object) -> SourceConfig:
    return SourceConfig(str(write_jsonl(folder / "rows.jsonl", rows)), **options)


def complaint(*sources: SourceConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_data(sources)
    return str(caught.value)


# from the file


def test_graded_rows_with_mapped_columns(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"q": f"s{i}", "d": "t", "sim": str(i)} for i in range(3)]
    (table,) = load_data([source(tmp_path, rows, kind="graded", sentence1="q", sentence2="d", score="sim")]).tables
    assert table == SourceTable("graded", [(f"s{i}", "t") for i in range(3)], scores=[0.0, 1.0, 2.0])


def test_labels_are_alike_as_text_and_number_and_lone_ones_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [*LABELLED, {"text": "u", "label": "0"}, {"text": "v", "label": "alone"}]
    data = load_data([source(tmp_path, rows, kind="labelled")])
    assert data.tables[0].labels == ["0", "0", "1", "1", "2", "2", "0"]
    assert (data.counts[0].read, data.counts[0].lone_label, data.counts[0].dropped) == (8, 1, 1)


def file_of(path: Path, labels: str) -> SourceConfig:
    """A text for each label."""
    rows: list[dict[str, object]] = [{"text": f"{path.stem} {i}", "label": label} for i, label in enumerate(labels)]
    return SourceConfig(str(write_jsonl(path, rows)), kind="labelled")


def test_labels_are_judged_in_all_sources_of_a_batch(tmp_path: Path) -> None:
    """A label once in each of two files is no lone one, unless each batch is from one file."""
    sources = [file_of(tmp_path / "one.jsonl", "aaffbc"), file_of(tmp_path / "two.jsonl", "bdddgge")]
    mixed, apart = (load_data(sources, mixed=mixed) for mixed in (True, False))
    assert [list(table.labels) for table in mixed.tables] == [list("aaffb"), list("bdddgg")]
    assert [(counts.lone_label, counts.dropped) for counts in mixed.counts] == [(1, 1), (1, 1)]
    facts = describe_data(TrainConfig(data=tuple(sources)))
    assert [(fact.rows, fact.sha256) for fact in facts] == [(len(t), content_hash([t])) for t in mixed.tables]
    assert [list(table.labels) for table in apart.tables] == [list("aaff"), list("dddgg")]


def test_a_file_of_each_class(tmp_path: Path) -> None:
    sources = [file_of(tmp_path / "one.jsonl", "aaa"), file_of(tmp_path / "two.jsonl", "bb")]
    assert load_data(sources).sizes == (3, 2)
    with pytest.raises(UserError, match=r"one.jsonl: all labels are equal \('a'\)"):
        load_data(sources, mixed=False)
    with pytest.raises(UserError, match=r"one.jsonl, .*one.jsonl: all labels are equal \('a'\)"):
        load_data([sources[0], sources[0]])


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([*GRADED, {"sentence1": "a", "sentence2": "b", "score": "high"}], {}, "line 5: score 'high' is not a finite"),
        ([*GRADED, {"sentence1": "a", "sentence2": "b", "score": True}], {}, "line 5: score True is not a finite"),
        ([{**row, "score": 1} for row in GRADED], {}, "all scores are equal (1.0)"),
        (GRADED[:1], {}, "1 pair; contrastive training needs at least two"),
        ([{"sentence1": "a"}] * 2, {}, "no column 'sentence2'; the columns are: sentence1"),
        (LABELLED[:2], {"kind": "labelled"}, "all labels are equal ('0')"),
        (LABELLED[::2], {"kind": "labelled"}, "0 text; contrastive training needs at least two"),
        ([*LABELLED, {"text": "a", "label": 1.5}], {"kind": "labelled"}, "line 7: label is 1.5; use text or a whole"),
        ([{"text": "a"}] * 3, {"kind": "texts"}, "all texts are equal ('a')"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, object]], options: dict[str, object], words: str) -> None:
    assert words in complaint(source(tmp_path, rows, **{"kind": "graded", **options}))


DIRTY: list[dict[str, object]] = [
    {"anchor": "a", "positive": "b"},
    {"anchor": "a", "positive": "b"},
    {"anchor": "a", "positive": "b", "negative": "c"},
    {"anchor": " ", "positive": "b"},
    {"anchor": "x", "positive": None},
    {"anchor": "same", "positive": "same"},
    {"anchor": "d", "positive": "e"},
]


def test_doubtful_rows_are_counted_and_left_out_on_request(tmp_path: Path) -> None:
    clean = load_data([source(tmp_path, DIRTY, clean=True)])
    assert clean.tables[0].texts == [("a", "b"), ("a", "b", "c"), ("d", "e")]
    (counts,) = clean.counts
    assert vars(counts) == {
        "read": 7, "empty": 2, "duplicate": 1, "anchor_is_positive": 1, "lone_label": 0, "dropped": 4,
    }  # fmt: skip
    whole = load_data([source(tmp_path, DIRTY[:3] + DIRTY[5:])])
    assert len(whole) == 5 and (whole.counts[0].duplicate, whole.counts[0].dropped) == (1, 0)
    assert "line 4: anchor is blank" in complaint(source(tmp_path, DIRTY))
    assert "line 8: anchor is a number" in complaint(
        source(tmp_path, [*DIRTY, {"anchor": 4, "positive": "b"}], clean=True)
    )


def test_rows_are_equal_that_the_decoder_reads_alike(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"anchor": "A cat", "positive": "b", "negative": "C"},
        {"anchor": "a cat", "positive": "B", "negative": "c"},
        {"anchor": "Same", "positive": "same"},
        {"anchor": "d", "positive": "e"},
    ]
    found = [
        load_data([source(tmp_path, rows, clean=True)], normalization=normalization)
        for normalization in ("none", "lower", "sts")
    ]
    assert [len(data) for data in found] == [4, 2, 4]
    assert found[1].tables[0].texts == [("A cat", "b", "C"), ("d", "e")], "and kept as they were written"
    assert [(data.counts[0].duplicate, data.counts[0].anchor_is_positive) for data in found] == [(0, 0), (1, 1), (0, 0)]
    labelled: list[dict[str, object]] = [
        {"text": text, "label": label}
        for text, label in (("Cat", "A"), ("cat", "a"), ("CAT", "A"), ("dog", "b"), ("bird", "b"))
    ]
    (counts,) = load_data([source(tmp_path, labelled, kind="labelled")], normalization="lower").counts
    assert (counts.duplicate, counts.lone_label) == (1, 1), "a label has a case"


def test_report(tmp_path: Path, encoder: Encoder) -> None:
    long = {"anchor": "dog " * 30, "positive": "e"}
    config = source(tmp_path, [*DIRTY[:3], long, {"anchor": "e", "positive": "dog " * 80, "negative": "x " * 90}])
    data = load_data([config])
    report = describe(data, Mixed(len(data), 2, 0), encoder)
    ids = [max(len(encoder.tokenize([text])[0]) for text in texts) for texts in data.tables[0].texts]
    assert report["sources"][0]["too_long"] == sum(length == encoder.config.max_length for length in ids) == 2
    assert report["sha256"] == report["sources"][0]["sha256"] == data.content_hash
    assert lines(report) == [
        f"data.0 {config.path}: 5 pairs, 2 with hard negatives, 1 equal to an earlier one, "
        "2 too long, cut by model.max_length"
    ]


@pytest.mark.parametrize("prompt", ["bare", "prompteol"])
@pytest.mark.parametrize("tokenization", ["joint", "separate"])
def test_a_text_is_cut_just_when_it_is_said_to_be(
    tmp_path: Path, encoder: Encoder, prompt: str, tokenization: str
) -> None:
    """Against the ids of the same text with room for all of it."""
    config = {**vars(encoder.config), "prompt": prompt, "tokenization": tokenization}
    short, long = (
        Encoder(type(encoder.config)(**{**config, "max_length": length}), encoder.tokenizer, encoder.embedder)
        for length in (64, 250)
    )
    texts = ["dog " * count for count in range(1, 70, 3)]
    expected = [len(ids) > 64 for ids in long.tokenize(texts)]
    assert short.is_cut(texts) == expected and 0 < sum(expected) < len(texts)


# to the batch


def test_twins_are_embedded_apart(encoder: Encoder) -> None:
    data = data_of(SourceTable("texts", [("a dog",), ("a cat",), ("a dog",)]))
    batch = prepare(data, np.arange(3), encoder, BatchOptions(64))
    assert isinstance(batch.loss_inputs, PairInputs)
    assert batch.loss_inputs.anchors.tolist() == [0, 1, 0] and batch.loss_inputs.documents.tolist() == [2, 3, 2]
    assert torch.equal(batch.loss_inputs.anchor_keys, batch.loss_inputs.document_keys)
    rows = torch.cat([chunk.rows for chunk in batch.chunks])
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    encoder.embedder.train()
    vectors = torch.empty(4, 16)
    with torch.no_grad():
        for chunk in batch.chunks:
            vectors[chunk.rows] = encoder.embedder(chunk.input_ids, chunk.lengths)[0]
    encoder.embedder.eval()
    assert not torch.equal(vectors[:2], vectors[2:])


def test_graded_and_labelled_rows(encoder: Encoder) -> None:
    graded = data_of(SourceTable("graded", [("a", "b"), ("c", "a")], scores=[0.5, 3.0]))
    rows = prepare(graded, np.array([1, 0]), encoder, BatchOptions(64)).loss_inputs
    assert isinstance(rows, GradedInputs)
    assert rows.first.tolist() == [0, 1] and rows.second.tolist() == [1, 2] and rows.scores.tolist() == [3.0, 0.5]
    assert torch.equal(rows.first_keys, text_keys(["c", "a"])) and torch.equal(rows.second_keys, text_keys(["a", "b"]))
    labelled = data_of(SourceTable("labelled", [("a",), ("b",), ("c",)], labels=["x", "y", "x"]))
    rows = prepare(labelled, np.arange(3), encoder, BatchOptions(64)).loss_inputs
    assert isinstance(rows, LabelledInputs)
    assert rows.texts.tolist() == [0, 1, 2] and torch.equal(rows.labels, text_keys(["x", "y", "x"]))


@pytest.mark.parametrize("kind", ["pairs", "texts", "graded", "labelled"])
def test_a_rank_without_rows_has_rows_of_the_same_kind(encoder: Encoder, kind: str) -> None:
    tables = {
        "pairs": SourceTable("pairs", [("a", "b")] * 2),
        "texts": SourceTable("texts", [("a",)] * 2),
        "graded": SourceTable("graded", [("a", "b")] * 2, scores=[1.0, 2.0]),
        "labelled": SourceTable("labelled", [("a",)] * 2, labels=["x", "y"]),
    }
    losses = (LossConfig(temperature=0.5),)
    data = data_of(SourceTable("pairs", [("a", "b")] * 3), tables[kind])
    data = type(data)((data.sources[0], SourceConfig(kind=kind, losses=losses)), data.tables, data.counts)
    empty, full = (prepare(data, np.array([3]), encoder, BatchOptions(64, rank=rank, world=2)) for rank in (0, 1))
    assert empty.pairs == 0 and full.pairs == 1 and len(empty.chunks) == 1
    assert type(empty.loss_inputs) is type(full.loss_inputs)
    parts = ([part for part in vars(batch.loss_inputs).values() if part is not None] for batch in (empty, full))
    dtypes = [[tensor.dtype for tensor in tensors] for tensors in parts]
    assert dtypes[0] == dtypes[1]
    assert empty.losses == full.losses == losses


def test_prompts_of_sources_and_sides(encoder: Encoder) -> None:
    """Each text stands in the prompt of its source and side; without one, in the model's."""
    tables = (SourceTable("pairs", [("a dog", "a cat", "a bird")]), SourceTable("pairs", [("a dog", "a cat")]))
    data = data_of(*tables)
    sources = (SourceConfig(query_prompt="Query: {text}", document_prompt="prompteol"), SourceConfig())
    batch = prepare(type(data)(sources, tables, data.counts), np.array([1, 0]), encoder, BatchOptions(1))
    assert isinstance(batch.loss_inputs, PairInputs)
    ids = {int(row): chunk.input_ids[0].tolist() for chunk in batch.chunks for row in chunk.rows}
    found = [ids[int(row)] for row in torch.cat([batch.loss_inputs.anchors, batch.loss_inputs.documents])]

    def plain(text: str, *, prompt: str = "bare") -> list[int]:
        whole = get_prompt(prompt, "")
        body = whole.prefix + text + whole.suffix
        return encoder.tokenizer(body, add_special_tokens=False)["input_ids"] + [0] * whole.append_eos

    assert found == [
        plain("a dog"),
        plain("a dog", prompt="Query: {text}"),
        plain("a cat"),
        plain("a cat", prompt="prompteol"),
        plain("a bird", prompt="prompteol"),
    ]


def test_ids_of_documents_are_a_source_s_own(tmp_path: Path, encoder: Encoder) -> None:
    rows: list[dict[str, object]] = [
        {"anchor": "a", "positive": "b", "negative": "n", "id": 7},
        {"anchor": "c", "positive": "d", "id": "7"},
        {"anchor": "e", "positive": "f", "id": 8},
    ]
    config = source(tmp_path, rows, document_id="id")
    found = prepare(load_data([config, config]), np.arange(6), encoder, BatchOptions(64)).loss_inputs
    assert isinstance(found, PairInputs)
    first, second, third, other, *_ = found.document_ids.tolist()
    assert first == second and len({first, third, other, NO_ID}) == 4
    assert found.document_ids.tolist()[6:] == [NO_ID] * 2
    without = prepare(load_data([source(tmp_path, rows)]), np.arange(3), encoder, BatchOptions(64)).loss_inputs
    assert isinstance(without, PairInputs) and set(without.document_ids.tolist()) == {NO_ID}


def test_evaluation_finds_the_texts_of_every_kind(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"q": "x", "d": "y", "t": "z", "score": 1}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    for kind, columns, expected in (
        ("graded", {"sentence1": "q", "sentence2": "d"}, ["x", "y"]),
        ("labelled", {"text": "t"}, ["z"]),
        ("pairs", {"anchor": "d", "positive": "t"}, ["y", "z"]),
    ):
        entry = {"path": str(path), "kind": kind, **columns}
        (tmp_path / "config.yaml").write_text(f"data: [{entry}]\n".replace("'", '"'))
        assert read_training_texts(_run_data(str(tmp_path))[0]) == expected


def test_labelled_batches_of_a_file(tmp_path: Path, encoder: Encoder) -> None:
    rows: list[dict[str, object]] = [{"text": f"t{i}", "label": i % 5} for i in range(40)]
    config = TrainConfig(data=(source(tmp_path, rows, kind="labelled"),), batch=BatchConfig(size=8))
    data = load_data(config.data)
    found = prepare(data, make_sampler(config, data).rows(3), encoder, BatchOptions(64)).loss_inputs
    assert isinstance(found, LabelledInputs)
    _, counts = found.labels.unique(return_counts=True)
    assert counts.min() >= 2 and len(counts) >= 2
