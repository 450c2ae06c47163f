"""InfoNCE in tiles and the plain way, against a float64 loop over texts and against sentence-transformers."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.naive_info_nce import Texts, document_ignored, naive_loss, query_ignored
from train.data.prompted_input import text_keys
from train.losses.infonce import tiled as tiles
from train.losses.infonce.false_negatives import PairKeys, SortedKeys, as_documents, false_negatives
from train.losses.infonce.infonce import infonce
from train.losses.infonce.plain import info_nce
from train.losses.inputs import NO_ANCHOR, NO_ID, PairInputs
from train.losses.objective import Objective, Temperature
from train.options.losses import LossConfig

TEXTS = Texts(("a", "b", "c", "a", "d"), ("p", "q", "r", "s", "p"), ("x", "c", "q", "y"))
PLAIN = LossConfig(temperature=0.1, learn_temperature=True)
EVERYTHING = LossConfig(
    temperature=0.1, symmetric=True, margin=0.1, query_negatives=True, document_negatives=True, hardness=2.0
)


def unlike(pairs: int, negatives: int = 0) -> Texts:
    """No two texts are equal."""
    counts = {"a": pairs, "p": pairs, "n": negatives}
    return Texts(*(tuple(f"{side}{row}" for row in range(count)) for side, count in counts.items()))


def rows_of(texts: Texts) -> PairInputs:
    count, documents = len(texts.anchors), len(texts.documents)
    ids = [NO_ID if texts.id_of(row) is None else int(texts.id_of(row) or 0) for row in range(documents)]
    return PairInputs(
        anchors=torch.arange(count),
        documents=torch.arange(count, count + documents),
        anchor_keys=text_keys(texts.anchors),
        document_keys=text_keys(texts.documents),
        document_anchors=torch.cat([text_keys(texts.anchors), torch.full((len(texts.negatives),), NO_ANCHOR)]),
        document_ids=torch.tensor(ids),
    )


def vectors_of(texts: Texts, seed: int, dim: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(texts.anchors) + len(texts.documents), dim, generator=generator, dtype=torch.float64)


def found(
    vectors: torch.Tensor,
    rows: PairInputs,
    config: LossConfig,
    sizes: tiles.Sizes | None = None,
    *,
    tiled: bool = True,
) -> Objective:
    """With strips and tiles of the given sizes, or the plain way."""
    temperature = Temperature(config.temperature, learned=True).to(vectors.dtype)
    choose = (lambda _: sizes) if sizes else tiles.choose_sizes
    with patch.object(tiles, "choose_sizes", choose):
        return infonce(vectors, rows, config, temperature, tiles=tiled)


def naive(vectors: torch.Tensor, texts: Texts, config: LossConfig) -> Objective:
    leaf = vectors.double().clone().requires_grad_()
    start = Temperature(config.temperature, learned=True).log_value.detach()  # as a float32 parameter holds it
    log_temperature = start.to(vectors.dtype).double().requires_grad_()
    loss = naive_loss(leaf, texts, config, log_temperature)
    return Objective(loss.detach(), *torch.autograd.grad(loss, [leaf, log_temperature], allow_unused=True))


def difference(one: Objective, other: Objective) -> float:
    """The largest relative difference of loss, gradient and temperature's gradient, in the Euclidean norm.

    Relative to at least what a loss of 1 would have: where nothing is left to learn, there is only rounding.
    """
    pairs = [(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True) if torch.is_tensor(b)]
    return max(float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-2)) for a, b in pairs)


@st.composite
def batches(draw: st.DrawFn) -> Texts:
    """Few different texts make dense masks, many make none."""
    count, extra = draw(st.integers(1, 9)), draw(st.integers(0, 5))
    letters = st.sampled_from("abcdefgh"[: draw(st.sampled_from([1, 3, 8]))])
    if draw(st.booleans()):
        return Texts(
            *(tuple(f"{side}{row}" for row in range(n)) for side, n in (("a", count), ("p", count), ("n", extra)))
        )
    texts = [draw(st.tuples(*[letters] * n)) for n in (count, count, extra)]
    ids = st.one_of(st.none(), st.integers(0, 6))
    return Texts(*texts, ids=draw(st.tuples(*[ids] * (count + extra))))


def configs() -> st.SearchStrategy[LossConfig]:
    return st.builds(
        LossConfig,
        temperature=st.sampled_from([0.01, 0.02, 0.05, 1.0]),
        symmetric=st.booleans(),
        margin=st.sampled_from([None, -0.1, 0.0, 0.2]),
        query_negatives=st.booleans(),
        document_negatives=st.booleans(),
        hardness=st.sampled_from([0.0, 5.0]),
    )


@settings(max_examples=40, deadline=None)
@given(batches(), configs(), st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**20))
def test_tiles_equal_the_plain_way_and_the_loop(
    texts: Texts, config: LossConfig, height: int, width: int, seed: int
) -> None:
    vectors, rows, sizes = vectors_of(texts, seed), rows_of(texts), tiles.Sizes(height, width)
    expected = naive(vectors, texts, config)
    plain = found(vectors, rows, config, tiled=False)
    assert difference(plain, expected) < 1e-10
    assert difference(found(vectors, rows, config, sizes), expected) < 1e-10
    single = naive(vectors.float(), texts, config)
    assert difference(found(vectors.float(), rows, config, sizes), single) < 1e-5


@pytest.mark.parametrize("tiled", [False, True])
def test_a_wrong_mask_differs(tiled: bool) -> None:
    """Negative control: every rule, the margin and each further term are noticed when they are missing."""
    texts = Texts(TEXTS.anchors, TEXTS.positives, TEXTS.negatives, (None, 3, None, None, 4, 4, None, None, 3))
    vectors, rows = vectors_of(texts, 0), rows_of(texts)
    config = EVERYTHING
    expected = found(vectors, rows, config, tiles.Sizes(2, 3), tiled=tiled)
    assert difference(expected, naive(vectors, texts, config)) < 1e-10
    for name, keys in vars(rows).items():
        if (
            name not in ("anchors", "documents", "known") and keys is not None
        ):  # tests/test_siblings.py has what is known
            others = PairInputs(**{**vars(rows), name: torch.arange(len(keys)) + (0 if name == "document_ids" else 10)})
            assert difference(found(vectors, others, config, tiled=tiled), expected) > 1e-4, name
    for name, value in (("symmetric", False), ("margin", None), ("query_negatives", False), ("hardness", 0.0)):
        other = LossConfig(**{**vars(config), name: value})
        assert difference(found(vectors, rows, other, tiled=tiled), expected) > 1e-4, name


@pytest.mark.parametrize("length", [0.0, 1e-13])
def test_rows_that_share_vectors_or_have_none(length: float) -> None:
    """Equal token ids are embedded once. A vector of zeros has no direction: its gradient is divided by 1e-12."""
    texts = Texts(("a", "b", "c"), ("p", "q", "r"), ("x",))
    shared = {"anchors": torch.tensor([4, 0, 4]), "documents": torch.tensor([1, 3, 1, 0])}
    rows, vectors = PairInputs(**{**vars(rows_of(texts)), **shared}), vectors_of(texts, 1)
    vectors[3] *= length / vectors[3].norm()
    for config in (PLAIN, EVERYTHING):
        expected = found(vectors, rows, config, tiled=False)
        result = found(vectors, rows, config, tiles.Sizes(2, 3))
        torch.testing.assert_close(result.loss, expected.loss)
        torch.testing.assert_close(result.log_temperature_gradient, expected.log_temperature_gradient)
        assert torch.isfinite(result.embedding_gradient).all()
        for one, other in zip(result.embedding_gradient, expected.embedding_gradient, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12 + 1e-8 * float(other.norm()))


@pytest.mark.parametrize("extra", [0, 4])
def test_against_sentence_transformers(extra: int) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    texts = Texts(
        *(tuple(f"{side}{row}" for row in range(count)) for side, count in (("a", 4), ("p", 4), ("n", extra)))
    )
    vectors, rows = vectors_of(texts, 2).float(), rows_of(texts)
    cases = [
        (LossConfig(), {}),
        (LossConfig(hardness=3.0), {"hardness_mode": "all_negatives", "hardness_strength": 3.0}),
        (LossConfig(query_negatives=True), {"directions": ("query_to_doc", "query_to_query")}),
    ]
    if not extra:  # theirs contrasts positives with the hard negatives of other pairs too
        both = ("query_to_doc", "query_to_query", "doc_to_doc")
        cases.append((LossConfig(query_negatives=True, document_negatives=True), {"directions": both}))
    for config, options in cases:
        leaf = vectors.clone().requires_grad_()
        theirs = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0, **options)
        loss = theirs.compute_loss_from_embeddings(list(leaf.split(4)), torch.zeros(0))
        loss.backward()
        result = found(vectors, rows, config, tiles.Sizes(3, 3))
        assert leaf.grad is not None
        torch.testing.assert_close(result.loss, loss.detach())
        torch.testing.assert_close(result.embedding_gradient, leaf.grad, rtol=1e-4, atol=1e-6)


@given(batches(), st.integers(1, 7))
def test_masks_against_the_texts(texts: Texts, width: int) -> None:
    rows, count = rows_of(texts), len(texts.anchors)
    keys = PairKeys(rows.anchor_keys, rows.document_keys[:count], rows.document_ids[:count])
    documents = as_documents(rows.document_keys, rows.document_anchors, rows.document_ids)
    for ruled, columns, ignored in (
        (keys.against_documents(), documents, document_ignored),
        (keys.against_queries(), keys.as_queries(), query_ignored),
    ):
        size = columns.shape[1]
        expected = np.array([[ignored(texts, i, j) for j in range(size)] for i in range(count)])
        np.testing.assert_array_equal(false_negatives(ruled, columns).numpy(), expected)
        logits = torch.zeros(count, size)
        by_tile = SortedKeys(columns, width)
        for number, part in enumerate(logits.split(width, dim=1)):
            by_tile.ignore(part, ruled, number)
        np.testing.assert_array_equal(logits.isinf().numpy(), expected)


def test_memory_is_flat_and_no_matrix_of_all_cosines_is_made() -> None:
    """Beside the embeddings and their gradient; the whole of it at a size where the plain way takes 36 MB a matrix."""
    count = 3000
    texts = unlike(count)
    vectors, rows = vectors_of(texts, 0, dim=8).float(), rows_of(texts)
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            tensors = [value for value in torch.utils._pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
            largest.append(max((tensor.untyped_storage().nbytes() for tensor in tensors), default=0))
            return result

    for tiled in (True, False):
        largest.clear()
        with Sizes(), patch.object(tiles, "CPU_LIMITS", tiles.Limits(1 << 20, 2048, 2048)):
            found(vectors, rows, LossConfig(), tiled=tiled)
        assert (max(largest) < 2 << 20) == tiled
        assert (max(largest) >= 4 * count**2) == (not tiled)


def test_an_accelerator_has_few_large_tiles() -> None:
    """A rank's 4,096 of 8 x 4,096 pairs of 1,024 components: 2 x 2 tiles, where a CPU has 19 x 16."""
    row_bytes = 4 * (32_768 + 5 * 1024)
    counts = []
    for device in ("cpu", "cuda"):
        limits = tiles.Limits.of(torch.device(device))
        sizes = limits.sizes(4096, row_bytes)
        counts.append((-(-4096 // sizes.rows), -(-32_768 // sizes.width)))
        assert sizes.rows * row_bytes <= limits.budget_bytes
    assert counts == [(19, 16), (2, 2)]


def test_the_tiles_of_an_accelerator_give_the_same_loss_and_gradient() -> None:
    """On a CPU. With tiles of 50 candidates the last bits differ: the limits are used."""
    texts = unlike(300)
    vectors, rows = vectors_of(texts, 0), rows_of(texts)
    expected = found(vectors, rows, LossConfig(symmetric=True), tiled=False)
    results = []
    for limits in (tiles.ACCELERATOR_LIMITS, tiles.Limits(1, rows=2048, width=50)):
        with patch.object(tiles, "CPU_LIMITS", limits):
            results.append(found(vectors, rows, LossConfig(symmetric=True)))
        assert difference(results[-1], expected) < 1e-10
    assert not results[0].embedding_gradient.equal(results[1].embedding_gradient)


def units(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


@given(st.integers(2, 12), st.integers(0, 5), st.integers(0, 2**20))
def test_permutation_changes_nothing(count: int, extra: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = units(torch.randn(count, 5, generator=generator, dtype=torch.float64))
    documents = units(torch.randn(count + extra, 5, generator=generator, dtype=torch.float64))
    own = torch.eye(count, count + extra, dtype=torch.bool)
    order = torch.randperm(count, generator=generator)
    shuffled = torch.cat([documents[:count][order], documents[count:]])
    temperature = torch.tensor(0.1, dtype=torch.float64)
    before = info_nce(queries, documents[:count], [(queries, documents, own)], temperature)
    after = info_nce(queries[order], shuffled[:count], [(queries[order], shuffled, own)], temperature)
    torch.testing.assert_close(before, after)


@given(st.integers(2, 30), st.booleans())
def test_log_n_at_uniform(count: int, tiled: bool) -> None:
    result = found(torch.ones(2 * count, 4), rows_of(unlike(count)), LossConfig(), tiled=tiled)
    assert float(result.loss) == pytest.approx(math.log(count), rel=1e-5)


@pytest.mark.parametrize("tiled", [False, True])
def test_zero_at_perfect_separation(tiled: bool) -> None:
    vectors = torch.cat([torch.eye(8), torch.eye(8)])
    result = found(vectors, rows_of(unlike(8)), LossConfig(temperature=0.01), tiled=tiled)
    assert float(result.loss) == pytest.approx(0, abs=1e-6)


@given(st.floats(0.0, 0.9), st.floats(0.01, 0.1))
def test_falls_with_the_positive_similarity(cosine: float, gain: float) -> None:
    query, other = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])

    def at(value: float) -> float:
        positive = torch.tensor([[value, math.sqrt(1 - value**2), 0.0]])
        negatives = [(query, other, torch.zeros(1, 1, dtype=torch.bool))]
        return float(info_nce(query, positive, negatives, torch.tensor(1.0)))

    assert at(min(1.0, cosine + gain)) < at(cosine)


@pytest.mark.parametrize(("start", "floor"), [(0.05, 0.01), (0.002, 0.002)])
def test_a_learned_temperature_stays_above_its_floor(start: float, floor: float) -> None:
    temperature = Temperature(start, learned=True)
    temperature.hold_floor()
    assert float(temperature().detach()) == pytest.approx(start)
    with torch.no_grad():
        temperature.log_value.fill_(-20.0)
    temperature.hold_floor()
    assert float(temperature().detach()) == pytest.approx(floor)
