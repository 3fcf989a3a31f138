"""Each path is the optimizer's: it equals the rule, and ends where the pictures say."""

import math

import pytest
import torch
from our_optimizers import INSTALLED
from restated_surfaces import RESTATED, Rule, adam, lars, sgd

from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.tuning.landscape.paths import Noise, Path, Side, roll, sides_of
from largebatch.tuning.landscape.surfaces import SURFACES, Surface

SILENT = Noise(4.0, 0)
NAMED = {surface.name: surface for surface in SURFACES}
PLAIN, MOMENTUM, NESTEROV, SMALL_BATCH = sides_of("sgd", 0.9, 16)
by_name = pytest.mark.parametrize("name", NAMED)


def end(path: Path) -> tuple[float, ...]:
    return tuple(path.positions[-1].tolist())


def walked(surface: Surface, rule: Rule, num_steps: int, noise: torch.Tensor | None = None) -> list[list[float]]:
    """Positions by the rule; gradients by hand, plus noise of shape (num_steps, d)."""
    positions = [list(surface.start)]
    for step in range(num_steps):
        gradient = RESTATED[surface.name](*positions[-1])[1]
        if noise is not None:
            gradient = [g + n for g, n in zip(gradient, noise[step].tolist(), strict=True)]
        positions.append(next(rule)(positions[-1], gradient))
    return positions


def assert_same(path: Path, positions: list[list[float]]) -> None:
    """To 1e-9: rounding, 1e-16 a step, grows where a surface drives neighbours apart."""
    assert not path.diverged
    torch.testing.assert_close(path.positions, torch.tensor(positions, dtype=torch.float64), rtol=0, atol=1e-9)


@by_name
@pytest.mark.parametrize(("side", "momentum", "nesterov"), [(PLAIN, 0.0, False), (MOMENTUM, 0.9, False), (NESTEROV, 0.9, True)], ids=["0", "m", "n"])
def test_sgd_goes_by_the_rule(name: str, side: Side, momentum: float, nesterov: bool) -> None:
    surface = NAMED[name]
    assert_same(roll(surface, side, 100, SILENT), walked(surface, sgd(surface.learning_rate, momentum, nesterov), 100))


@by_name
def test_a_small_batch_adds_noise_of_its_variance_to_each_gradient(name: str) -> None:
    surface = NAMED[name]
    path = roll(surface, SMALL_BATCH, 100, Noise(4.0, seed=3))
    generator = torch.Generator().manual_seed(3)
    noise = torch.stack([torch.randn(1, surface.num_dimensions, generator=generator, dtype=torch.float64)[0] for _ in range(100)])
    assert_same(path, walked(surface, sgd(surface.learning_rate), 100, noise * 4.0 / math.sqrt(16)))
    again, other = roll(surface, SMALL_BATCH, 100, Noise(4.0, 3)), roll(surface, SMALL_BATCH, 100, Noise(4.0, 4))
    assert torch.equal(path.positions, again.positions)
    assert not torch.equal(path.positions, other.positions)


@pytest.mark.parametrize(("optimizer", "number", "rule"), [
    ("adamw", 0, adam(0.05, 0.0, 1e-8)), ("adamw", 1, adam(0.05, 0.8, 1e-8)),
    ("lamb", 0, adam(0.05, 0.0, 1e-6, is_lamb=True)), ("lamb", 1, adam(0.05, 0.8, 1e-6, is_lamb=True)),
    ("lars", 0, lars(20.0, 0.0)), ("lars", 1, lars(20.0, 0.8)), ("lars", 2, lars(20.0, 0.8, nesterov=True)),
])  # fmt: skip
def test_other_optimizers_go_by_their_rules(optimizer: str, number: int, rule: Rule) -> None:
    surface = NAMED["local-minimum-2d"]
    assert_same(roll(surface, sides_of(optimizer, 0.8, 16)[number], 60, SILENT), walked(surface, rule, 60))


def test_a_learning_rate_is_taken() -> None:
    surface = NAMED["hill-2d"]
    assert_same(roll(surface, MOMENTUM, 50, SILENT, learning_rate=0.03), walked(surface, sgd(0.03, 0.9), 50))


@pytest.mark.parametrize("optimizer", INSTALLED)
def test_every_optimizer_has_sides_with_and_without_momentum(optimizer: str) -> None:
    sides = sides_of(optimizer, 0.7, 8)
    if option := OPTIMIZERS[optimizer].momentum_option:
        assert {0.0, 0.7} == {getattr(side.config, option) for side in sides}
    assert [side.batch for side in sides] == [math.inf] * (len(sides) - 1) + [8]
    assert len({side.name for side in sides}) == len(sides)
    for side in sides:
        path = roll(NAMED["slope-2d"], side, 5, SILENT)
        assert RESTATED["slope-2d"](*end(path))[0] < RESTATED["slope-2d"](*path.surface.start)[0], "downhill"


@pytest.mark.parametrize(("optimizer", "length"), [("muon", 0.2), ("shampoo", 1.0)])
def test_a_rule_for_matrices_moves_the_ball_itself(optimizer: str, length: float) -> None:
    """A position in one dimension is a matrix of one number, whose singular value muon puts near 1 (0.2 times that, match_rms_adamw), shampoo at 1
    in its first step; the other rule, AdamW, would move it by the rate, times shampoo's factor.
    """
    if optimizer not in INSTALLED:
        pytest.skip("the optimizer's library is not installed")
    path = roll(NAMED["slope-1d"], sides_of(optimizer, 0.7, 8)[0], 1, SILENT, learning_rate=0.01)
    # five iterations of muon's polynomial leave singular values between 0.68 and 1.21 (its author's page)
    assert 0.68 < abs(float(path.real_moves)) / (0.01 * length) < 1.21


@pytest.mark.parametrize("name", ["saddle-1d", "saddle-2d", "local-minimum-1d", "local-minimum-2d", "hill-1d", "hill-2d"])
def test_descent_stops_where_momentum_and_nesterov_leave(name: str) -> None:
    surface = NAMED[name]
    kinds = {place.kind: place for place in reversed(surface.places)}
    stop = kinds.get("local minimum") or kinds["saddle"]
    plain = roll(surface, PLAIN, 1200, SILENT)
    assert math.dist(end(plain), stop.at) < 0.01, "also after many more steps than are shown"
    assert surface.place_near(end(roll(surface, PLAIN, 100, SILENT))) is stop
    for side in (MOMENTUM, NESTEROV):
        path = roll(surface, side, 400, SILENT)
        assert min(math.dist(end(path), place.at) for place in surface.places if place.kind == "minimum") < 0.01


@pytest.mark.parametrize("name", ["saddle-1d", "saddle-2d", "hill-2d", "ridge-2d"])
@pytest.mark.parametrize("seed", range(3))
def test_the_noise_of_a_small_batch_leaves_the_saddle(name: str, seed: int) -> None:
    surface = NAMED[name]
    height = RESTATED[name](*next(place.at for place in surface.places if place.kind == "saddle"))[0]
    path = roll(surface, SMALL_BATCH, 400, Noise(4.0, seed))
    later = [RESTATED[name](*position)[0] for position in path.positions[200:].tolist()]
    assert sum(later) / len(later) < height - 0.1, "it may shake in the minimum behind, but does not come back"


MINIMUM, LOCAL, SADDLE, PLATEAU = "ends in the minimum", "ends in the local minimum", "ends at the saddle", "ends on the plateau"


@pytest.mark.parametrize(("name", "plain", "with_momentum", "on_a_small_batch"), [
    ("slope-1d", MINIMUM, MINIMUM, MINIMUM), ("slope-2d", MINIMUM, MINIMUM, MINIMUM),
    ("plateau-1d", PLATEAU, MINIMUM, PLATEAU), ("plateau-2d", PLATEAU, MINIMUM, "ends at 0.43, 0.07"),
    ("saddle-1d", SADDLE, MINIMUM, MINIMUM), ("saddle-2d", SADDLE, MINIMUM, MINIMUM),
    ("local-minimum-1d", LOCAL, MINIMUM, LOCAL), ("local-minimum-2d", LOCAL, MINIMUM, LOCAL),
    ("hill-1d", LOCAL, MINIMUM, LOCAL), ("hill-2d", SADDLE, MINIMUM, MINIMUM), ("ridge-2d", SADDLE, SADDLE, MINIMUM),
])  # fmt: skip
def test_the_defaults_end_where_the_documents_say(name: str, plain: str, with_momentum: str, on_a_small_batch: str) -> None:
    ends = [roll(NAMED[name], side, 100, SILENT).in_words for side in (PLAIN, MOMENTUM, NESTEROV, SMALL_BATCH)]
    assert ends == [plain, with_momentum, with_momentum, on_a_small_batch]


@pytest.mark.parametrize("seed", range(3))
def test_noise_leads_round_the_hill_and_momentum_over_it(seed: int) -> None:
    """The hill's top lies at (-2.14, 0)."""
    surface = NAMED["hill-2d"]
    round_it, over_it = (roll(surface, side, 200, Noise(4.0, seed)).positions for side in (SMALL_BATCH, MOMENTUM))
    crossing = int((round_it[:, 0] > -2.14).nonzero()[0])
    assert round_it[crossing, 1].abs() > 0.4
    assert over_it[:, 1].abs().max() == 0


def test_on_the_axis_of_a_saddle_nothing_but_noise_helps() -> None:
    for side in (PLAIN, MOMENTUM, NESTEROV):
        path = roll(NAMED["ridge-2d"], side, 400, SILENT)
        assert path.positions[:, 1].abs().max() == 0
        assert math.dist(end(path), (0.0, 0.0)) < 1e-6


@by_name
def test_an_endless_batch_has_no_noise(name: str) -> None:
    endless = sides_of("sgd", 0.9, math.inf)[-1]
    assert torch.equal(roll(NAMED[name], endless, 50, SILENT).positions, roll(NAMED[name], PLAIN, 50, SILENT).positions)


@by_name
def test_the_three_arrows(name: str) -> None:
    surface = NAMED[name]
    path = roll(surface, MOMENTUM, 40, SILENT)
    gradients = [RESTATED[name](*position)[1] for position in path.positions[:-1].tolist()]
    torch.testing.assert_close(path.negative_gradients, -torch.tensor(gradients, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    assert path.last_moves[0].abs().max() == 0
    assert torch.equal(path.last_moves[1:], path.real_moves[:-1])
    added_up = 0.9 * path.last_moves + surface.learning_rate * path.negative_gradients
    torch.testing.assert_close(path.real_moves, added_up, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["hill-1d", "hill-2d"])
def test_on_the_hill_the_ball_moves_against_the_negative_gradient(name: str) -> None:
    path = roll(NAMED[name], MOMENTUM, 100, SILENT)
    against = (path.negative_gradients[:, 0] < 0) & (path.real_moves[:, 0] > 0) & (path.positions[:-1, 0] < -2)
    assert against.any()


def test_on_a_long_slope_momentum_comes_near_ten_times_the_pace() -> None:
    """At one gradient the moves' limit is rate / (1 - momentum) times it."""
    surface = NAMED["slope-1d"]
    fast, slow = (roll(surface, side, 12, SILENT).real_moves for side in (MOMENTUM, PLAIN))
    assert fast.max() / slow.max() == pytest.approx((1 - 0.9**12) / (1 - 0.9), rel=0.1)


def test_a_path_that_diverges_ends_where_it_leaves() -> None:
    surface = NAMED["saddle-1d"]
    path = roll(surface, PLAIN, 100, SILENT, learning_rate=10.0)
    assert path.diverged
    assert path.positions.abs().max() < 100 * surface.width
    assert abs(walked(surface, sgd(10.0), len(path.positions))[-1][0]) > 100 * surface.width, "the next would not be"
    assert len(path.positions) == len(path.negative_gradients) + 1 < 100
    assert path.in_words == f"diverges in step {len(path.positions)}"
