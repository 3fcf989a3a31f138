"""Norms of any size and layout, against float64."""

import math

import pytest
import torch
from torch import Tensor

from largebatch.jobs.optim.tensors import norms

NEAR = 1e-6
"""A few roundings of 2^-24: a thousand squares are added up in many lanes, their errors average out."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-20, 1e-12, 1.0, 1e12, 1e18, 1e19, 1e30, 1e36])
def test_they_neither_overflow_nor_vanish(dtype: torch.dtype, scale: float) -> None:
    """The squares of 1e-42 and 1e30 are none in float32."""
    tensor = (torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale).to(dtype)
    (norm,) = norms([tensor]).tolist()
    assert norm == pytest.approx(tensor.double().norm().item(), rel=NEAR)


@pytest.mark.parametrize(("values", "expected"), [([], 0.0), ([0.0, 0.0], 0.0), ([-3.0, 4.0], 5.0), ([math.inf, 1.0], math.inf)])
def test_of_few_numbers(values: list[float], expected: float) -> None:
    assert norms([torch.tensor(values)]).tolist() == [expected]


def test_a_number_that_is_none_makes_the_norm_none() -> None:
    assert all(map(math.isnan, norms([torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, math.nan])]).tolist()))


def test_whatever_the_layout() -> None:
    tensor = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    gaps = torch.cat([tensor, torch.full_like(tensor, 7.0)], 1)[:, :6]
    laid = [tensor, tensor.contiguous(memory_format=torch.channels_last), tensor.mT, gaps, gaps[..., ::2], tensor.mT[1:, :, ::3]]
    expected = [one.double().norm().item() for one in laid]
    assert norms(laid).tolist() == pytest.approx(expected, rel=NEAR)


def test_many_numbers_add_up_as_exactly_as_few() -> None:
    """3 million numbers near 1: a single float32 sum of them would have lost the fifth digit."""
    tensor: Tensor = 1 + torch.rand(3_000_001, generator=torch.Generator().manual_seed(2))
    assert norms([tensor]).item() == pytest.approx(tensor.double().norm().item(), rel=1e-6)
