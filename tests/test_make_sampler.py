"""Orders by label and without duplicates: functions of seed and step, every row once an epoch."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dec2vec.errors import UserError
from tests.training_setup import data_of
from train.config import BatchConfig, TrainConfig
from train.data.dataset import TrainingData
from train.data.make_sampler import left_out, make_sampler
from train.data.sampler import ByLabel, Mixed, OneSource, Sampler, _label_epoch, shard
from train.data.table import SourceTable
from train.data.unique_sampler import UniqueTexts, _epoch, shared_keys

profile = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def labelled(draw: st.DrawFn) -> ByLabel:
    """At least two labels of two texts each, and batches of at least four groups."""
    counts = draw(st.lists(st.integers(2, 30), min_size=2, max_size=12))
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(draw(st.integers(0, 99))).shuffle(labels)
    group = draw(st.integers(2, 4))
    batch = draw(st.integers(min(4 * group, len(labels)), len(labels)))
    return ByLabel(labels, batch, group, draw(st.integers(0, 9)))


def epoch_of(sampler: Sampler, epoch: int) -> list[list[int]]:
    steps = sampler.steps_per_epoch
    return [sampler.rows(step).tolist() for step in range(epoch * steps, (epoch + 1) * steps)]


@profile
@given(labelled(), st.integers(0, 20))
def test_labelled_rows_come_once_an_epoch_and_in_groups(sampler: ByLabel, epoch: int) -> None:
    if sampler.batch < 4 * sampler.group:
        return  # refused by make_sampler
    batches = epoch_of(sampler, epoch)
    assert sorted(itertools.chain(*batches)) == list(range(len(sampler.labels)))
    of = Counter(sampler.labels.tolist())
    for batch in batches:
        assert abs(len(batch) - len(sampler.labels) / len(batches)) <= 2 * sampler.group
        for label, count in Counter(sampler.labels[batch].tolist()).items():
            assert count >= min(sampler.group, of[label])


def test_labels_are_spread_over_the_epoch() -> None:
    """64 rows of each of 8 labels, 16 batches of 32: random groups would now and then crowd one label into a batch."""
    sampler = ByLabel(np.arange(512) % 8, 32, 4, 0)
    for batch in epoch_of(sampler, 3):
        counts = Counter(sampler.labels[batch].tolist())
        assert len(counts) >= 6 and max(counts.values()) <= 12


def test_orders_depend_on_seed_and_epoch_and_not_on_the_calls_before() -> None:
    labels = np.arange(60) % 5
    keys = [(row % 20,) for row in range(60)]
    for make in (lambda seed: ByLabel(labels, 12, 2, seed), lambda seed: UniqueTexts(keys, 12, seed)):
        late = make(0).rows(17).tolist()
        sampler = make(0)
        assert [sampler.rows(step).tolist() for step in range(18)][17] == late
        assert make(1).rows(17).tolist() != late != sampler.rows(7).tolist()


def test_the_orders_are_pinned() -> None:
    """A checkpoint stores no order: changing it would break every resumed run."""
    assert ByLabel(np.arange(12) % 3, 8, 2, 0).rows(1).tolist() == [4, 7, 8, 2, 9, 0]
    assert UniqueTexts([(row % 3,) for row in range(9)], 3, 0).rows(1).tolist() == [2, 3, 7]


keyed = st.lists(st.sets(st.integers(0, 40), max_size=3).map(tuple), min_size=2, max_size=90)


@profile
@given(keyed, st.integers(2, 12), st.integers(0, 5), st.integers(0, 9), st.integers(1, 5))
def test_no_two_rows_of_a_batch_share_a_key(
    keys: list[tuple[int, ...]], batch: int, seed: int, epoch: int, world: int
) -> None:
    sampler = UniqueTexts(keys, min(batch, len(keys)), seed)
    batches = epoch_of(sampler, epoch)
    seen = list(itertools.chain(*batches))
    assert len(set(seen)) == len(seen)
    holders = [{key for row in found for key in keys[row]} for found in batches]
    for found, held in zip(batches, holders, strict=True):
        assert found and sum(len(keys[row]) for row in found) == len(held)
        shares = [shard(np.array(found), rank, world).tolist() for rank in range(world)]
        assert list(itertools.chain(*shares)) == found
        if len(found) == 1:
            assert max(map(len, batches)) <= max(2, len(keys[found[0]])), "alone though a batch had a row to spare"
    for row in set(range(len(keys))) - set(seen):
        assert all(held & set(keys[row]) for held in holders), "left out though a batch could have taken it"


def test_without_shared_texts_the_order_is_that_of_mixed() -> None:
    found, plain = UniqueTexts([()] * 50, 8, 3), Mixed(50, 8, 3)
    assert epoch_of(found, 1) == epoch_of(plain, 1)


def test_a_text_of_too_many_rows_is_left_out_in_turn() -> None:
    """Ten batches hold ten of thirty rows with one text; others come in the next epoch."""
    sampler = UniqueTexts([(0,)] * 30 + [()] * 70, 10, 0)
    epochs = [set(itertools.chain(*epoch_of(sampler, epoch))) for epoch in (0, 1)]
    assert [len(rows) for rows in epochs] == [80, 80]
    assert epochs[0] != epochs[1]
    assert left_out(sampler) == 20


def test_no_row_is_alone_in_a_batch() -> None:
    """It would have no negatives. Of 30 rows with one text each batch holds one, and the last ones got nothing else."""
    sampler = UniqueTexts([(0,)] * 30 + [()] * 70, 10, 0)
    for epoch in range(20):
        assert min(map(len, sampler.epoch(epoch))) == 2


def test_many_duplicates_take_linear_time() -> None:
    """A fifth of the rows has one text: the rest fills the batches, and no row tries all of them."""
    sampler = UniqueTexts([(row % 5,) if row % 5 == 0 else () for row in range(50_000)], 16, 0)
    assert sum(map(len, sampler.epoch(0))) == 40_000 + sampler.steps_per_epoch


def test_shared_keys_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rows, keys = rng.integers(0, 60, 200), rng.integers(0, 90, 200)
    found = shared_keys(rows, keys, 60)
    own = [set(keys[rows == row].tolist()) for row in range(60)]
    for one, other in itertools.combinations(range(60), 2):
        assert bool(set(found[one]) & set(found[other])) == bool(own[one] & own[other])


def config_of(data: TrainingData, **batch: object) -> TrainConfig:
    return TrainConfig(data=data.sources, batch=BatchConfig(**{"size": 8, **batch}))


PAIRS = SourceTable("pairs", [(f"a{i}", f"p{i % 9}") for i in range(40)])
TEXTS = SourceTable("texts", [(f"t{i}",) for i in range(20)])
LABELLED = SourceTable("labelled", [(f"t{i}",) for i in range(30)], labels=[str(i % 6) for i in range(30)])


def test_no_duplicates_reads_the_texts_as_they_are_embedded() -> None:
    data = data_of(SourceTable("pairs", [("A dog", "x"), ("a dog", "y"), ("cat", "z"), ("bird", "cat")]))
    plain = make_sampler(config_of(data, size=2, no_duplicates=True), data)
    assert isinstance(plain, UniqueTexts) and [len(keys) for keys in plain.keys] == [0, 0, 1, 1]
    config = TrainConfig(data=data.sources, batch=BatchConfig(size=2, no_duplicates=True))
    lower = make_sampler(TrainConfig(**{**vars(config), "model": {"text_normalization": "lower"}}), data)
    assert isinstance(lower, UniqueTexts) and [len(keys) for keys in lower.keys] == [1, 1, 1, 1]


def test_a_mixture_of_kinds_takes_turns() -> None:
    data = data_of(PAIRS, TEXTS, LABELLED)
    sampler = make_sampler(config_of(data, sources="single"), data)
    kinds = set()
    for step in range(40):
        (source,) = {data.place(row)[0] for row in sampler.rows(step).tolist()}
        kinds.add(data.tables[source].kind)
    assert kinds == {"pairs", "texts", "labelled"}


def weighted(*weights: float | None) -> OneSource:
    """Of PAIRS, TEXTS and LABELLED."""
    data = data_of(PAIRS, TEXTS, LABELLED)
    sources = tuple(replace(source, weight=weight) for source, weight in zip(data.sources, weights, strict=True))
    sampler = make_sampler(TrainConfig(data=sources, batch=BatchConfig(size=8, sources="single")), data)
    assert isinstance(sampler, OneSource)
    return sampler


def test_every_source_has_a_weight_or_none_has() -> None:
    """A weight beside numbers of rows is surely not what is meant."""
    assert weighted(None, None, None).weights == (40, 20, 30)
    assert weighted(2, 1, 0.5).weights == (2, 1, 0.5)
    with pytest.raises(UserError, match=r"data\.0\.weight is missing, but data\.1 has 2; .* here 40, 20, 30\)"):
        weighted(None, 2, 3)


@pytest.mark.parametrize(
    ("tables", "batch", "words"),
    [
        (
            (LABELLED,),
            {"size": 6},
            "texts_per_label 2: a batch of 6 contains too few labels; use batch.size 8 or more",
        ),
        (
            (SourceTable("pairs", [("a", "b")] * 3),),
            {"size": 2, "no_duplicates": True},
            "there are too few different texts, so some batches have a single row",
        ),
    ],
)
def test_what_no_batch_can_hold(tables: tuple[SourceTable, ...], batch: dict[str, object], words: str) -> None:
    data = data_of(*tables)
    with pytest.raises(UserError) as caught:
        make_sampler(config_of(data, **batch), data)
    assert words in str(caught.value)


def test_caches_are_only_caches() -> None:
    samplers: list[Sampler] = [
        ByLabel(np.arange(60) % 5, 12, 2, 0),
        UniqueTexts([(row % 7,) for row in range(60)], 6, 0),
    ]
    first = [sampler.rows(9).tolist() for sampler in samplers]
    _epoch.cache_clear()
    _label_epoch.cache_clear()
    assert [sampler.rows(9).tolist() for sampler in samplers] == first
