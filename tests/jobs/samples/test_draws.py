"""Draws against splitmix64 on Python's own integers, and their statistics."""

import math

import pytest
import torch

from largebatch.jobs.samples.keyed_random import integers, key, sample_order, seed_draws, uniform

INDICES = torch.arange(50_000)
MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """The output function of Steele, Lea and Flood's SplitMix (OOPSLA 2014), on unsigned 64-bit numbers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_reference_is_splitmix64() -> None:
    # The first outputs for seed 1234567, as published with the generator's common implementations.
    gamma = 0x9E3779B97F4A7C15
    assert [splitmix64(1234567 + n * gamma) for n in (1, 2, 3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("draw_key", [0, 1, 12345, (1 << 63) - 1, key(7, "flip", 3)])
def test_uniform_is_the_upper_bits_of_splitmix64(draw_key: int) -> None:
    indices = [0, 1, 2, 3, 1000, 49_999, 10**9, (1 << 40) + 5]
    expected = [(splitmix64(draw_key + index * 0x9E3779B97F4A7C15) >> 40) / (1 << 24) for index in indices]
    assert uniform(draw_key, torch.tensor(indices)).tolist() == expected


@pytest.mark.parametrize("draw_key", [0, 1, key(0, "rows", 0), key(1, "rows", 0)])
def test_uniform_is_uniform(draw_key: int) -> None:
    draws = uniform(draw_key, INDICES).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    num_bins = 100
    counts = torch.histc(draws, num_bins, 0.0, 1.0)
    expected = len(INDICES) / num_bins
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    # Chi-square with 99 degrees of freedom: mean 99, deviation 14; five deviations either way.
    assert 99 - 5 * math.sqrt(2 * 99) < chi_square < 99 + 5 * math.sqrt(2 * 99)
    # Neighbours are independent: their correlation has the deviation 1 / sqrt(n).
    centred = draws - draws.mean()
    correlation = (centred[1:] * centred[:-1]).mean() / centred.square().mean()
    assert abs(correlation.item()) < 5 / math.sqrt(len(INDICES))


def test_different_keys_are_independent() -> None:
    keys = [key(0, "flip", 0), key(0, "flip", 1), key(1, "flip", 0), key(0, "rows", 0), 0, 1]
    draws = torch.stack([uniform(draw_key, INDICES) for draw_key in keys]).double()
    correlations = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlations.abs().max().item() < 5 / math.sqrt(len(INDICES))


def test_a_draw_depends_on_its_own_index_alone() -> None:
    whole = uniform(9, INDICES)
    chosen = torch.tensor([77, 3, 49_999, 3])
    assert torch.equal(uniform(9, chosen), whole[chosen])
    seed_draws(1, torch.device("cpu"))
    assert torch.equal(uniform(9, chosen), whole[chosen])


@pytest.mark.parametrize(("low", "high"), [(-4, 4), (0, 0), (0, 31), (-1, 1), (0, 2**20)])
def test_integers_reach_every_number_and_no_other(low: int, high: int) -> None:
    draws = integers(5, INDICES, low, high)
    assert draws.dtype == torch.int64
    assert int(draws.min()) >= low
    assert int(draws.max()) <= high
    if high - low < 100:
        counts = torch.bincount(draws - low, minlength=high - low + 1)
        expected = len(INDICES) / (high - low + 1)
        assert ((counts - expected).abs() < 5 * math.sqrt(expected) + 1e-9).all()


def test_keys() -> None:
    keys = [key(seed, purpose, epoch) for seed in range(5) for purpose in ("order", "flip") for epoch in range(5)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= draw_key < 1 << 63 for draw_key in keys)
    assert key(1, 23) != key(12, 3), "numbers must not run together"
    assert key("1") != key(1)


def test_sample_order_is_a_permutation_of_its_own() -> None:
    orders = {(seed, epoch): sample_order(seed, epoch, 1000) for seed in range(3) for epoch in range(3)}
    for draw, order in orders.items():
        assert torch.equal(order.sort().values, torch.arange(1000))
        assert torch.equal(order, sample_order(*draw, 1000))
        for other_draw, other in orders.items():
            # Two independent permutations agree in one place on average (Poisson).
            assert draw == other_draw or int((order == other).sum()) < 10


def test_sample_order_is_shuffled() -> None:
    places = sample_order(0, 0, 10_000).double()
    correlation = torch.corrcoef(torch.stack([places, torch.arange(10_000).double()]))[0, 1]
    assert abs(correlation.item()) < 5 / 100


def test_sample_order_leaves_the_callers_draws_alone() -> None:
    before = torch.get_rng_state()
    sample_order(0, 0, 100)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_draws_does_what_manual_seed_does() -> None:
    seed_draws(99, torch.device("cpu"))
    ours = torch.rand(5)
    torch.manual_seed(99)
    assert torch.equal(ours, torch.rand(5))
