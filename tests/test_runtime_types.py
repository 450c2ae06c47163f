"""While tests run, a call with a wrong shape or type is refused, whichever function it is."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from dec2vec.batching import Chunk, plan
from tests import runtime_types
from train.losses.cosent import cosine, ranking_loss

PAIRS = torch.zeros(3, 4)


def test_dimensions_of_one_call_agree() -> None:
    """Other calls have other sizes; a dimension needs no quotes."""
    assert cosine(PAIRS, PAIRS).shape == (3,)
    assert cosine(PAIRS[:2], PAIRS[:2]).shape == (2,)
    for function, arguments in ((cosine, (PAIRS, PAIRS[:2])), (ranking_loss, (torch.zeros(3), torch.zeros(2)))):
        with pytest.raises(BeartypeCallHintViolation):
            function(*arguments)


def test_fields_of_a_dataclass() -> None:
    ids = torch.zeros(2, 5, dtype=torch.int64)
    assert Chunk(ids[:, 0], ids, ids[:, 1]).padded_tokens == 10
    with pytest.raises(BeartypeCallHintViolation):
        Chunk(ids[:, 0], ids, ids[0])


def test_what_is_not_a_tensor() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        plan([1, 2], "many")  # type: ignore[arg-type]


def test_what_is_returned() -> None:
    @runtime_types.checked
    def first_row(rows: Tensor, count: int) -> Tensor:
        return rows[0] if count else None  # type: ignore[return-value]

    first_row(PAIRS, 1)
    with pytest.raises(BeartypeCallHintViolation):
        first_row(PAIRS, 0)


def test_a_dimension_computed_from_an_argument() -> None:
    @runtime_types.checked
    def widened(rows: Float[Tensor, "row old"], width: int, given: int) -> Float[Tensor, "row {width}"]:
        return torch.zeros(len(rows), given)

    widened(PAIRS, 7, 7)
    with pytest.raises(TypeCheckError):
        widened(PAIRS, 7, 6)


def test_modules_that_are_imported_already_can_not_be_checked() -> None:
    with pytest.raises(RuntimeError, match=r"imported before its types could be checked: .*dec2vec\.batching"):
        runtime_types.install()
