"""The surfaces that the pictures of optimizers are made on: functions of one and two variables, with a start and the places that matter.

To add one: its line in `SURFACES`; a test holds its equation, the gradient at its places and what kind they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Point = tuple[float, ...]
DIP, BEHIND = (-2.893795747,), (0.009960031,)
"""Where the gradient is 0 in front of the small hill and behind it: x/4 = 4(x + 2) exp(-2(x + 2)^2)."""
Kind = Literal["minimum", "local minimum", "saddle", "plateau"]


@dataclass(frozen=True)
class Place:
    """A place on a surface that has a name."""

    kind: Kind
    """A saddle is a place without slope that is neither a minimum nor a maximum; in one dimension: an inflection."""
    at: Point


@dataclass(frozen=True)
class Surface:
    """A function to descend on."""

    name: str
    title: str
    equation: str
    words: str
    """What it is like; where optimizers end on it is found out, not told."""
    height: Callable[..., Tensor]
    """Takes each coordinate as a tensor, all of one shape; gives a tensor of that shape."""
    start: Point
    learning_rate: float
    """Of gradient descent and its kin: the pictures' own, at which plain descent does not diverge."""
    subject: Point
    """What the surface is about: where its pictures show the arrows."""
    places: tuple[Place, ...]
    view: tuple[tuple[float, float], ...]
    """What is drawn of each coordinate."""

    @property
    def num_dimensions(self) -> int:
        """One or two."""
        return len(self.start)

    @property
    def width(self) -> float:
        """Of its picture."""
        low, high = self.view[0]
        return high - low

    def place_near(self, point: Point) -> Place | None:
        """The nearest named place, if it lies within a twelfth of the picture's width."""
        nearest = min(self.places, key=lambda place: math.dist(place.at, point))
        return nearest if math.dist(nearest.at, point) <= self.width / 12 else None


def _bump(squared_distance: Tensor) -> Tensor:
    """The small hill: 1 high, half as wide (one standard deviation)."""
    return torch.exp(-2 * squared_distance)


def _plateau(x: Tensor) -> Tensor:
    """Its derivative is (x - 2)(x^4 + 0.02): nearly flat about 0, nowhere flat before 2."""
    return x**6 / 6 - 2 * x**5 / 5 + 0.01 * x**2 - 0.04 * x


def _two_wells(x: Tensor) -> Tensor:
    """Its derivative is (x + 1) x (x - 2)."""
    return x**4 / 4 - x**3 / 3 - x**2


SURFACES = (
    Surface(
        "slope-1d", "A slope", "f(x) = √(1 + x²)",
        "The slope is nearly the same far and wide, up to the minimum at 0.",
        lambda x: torch.sqrt(1 + x**2), (-8.0,), 0.1,
        (-4.0,), (Place("minimum", (0.0,)),), ((-9.0, 4.0),),
    ),
    Surface(
        "plateau-1d", "A plateau", "f(x) = x⁶/6 - 2x⁵/5 + x²/100 - x/25",
        "There is hardly a slope about 0, half-way to the minimum at 2.",
        _plateau, (-1.2,), 0.05,
        (0.0,), (Place("plateau", (0.0,)), Place("minimum", (2.0,))), ((-1.6, 2.9),),
    ),
    Surface(
        "saddle-1d", "A saddle", "f(x) = x⁴/4 - 2x³/3",
        "The slope is 0 at 0, which is a saddle in one dimension; behind it the way leads on downhill to the minimum at 2.",
        lambda x: x**4 / 4 - 2 * x**3 / 3, (-1.0,), 0.1,
        (0.0,), (Place("saddle", (0.0,)), Place("minimum", (2.0,))), ((-1.4, 2.9),),
    ),
    Surface(
        "local-minimum-1d", "A local minimum", "f(x) = x⁴/4 - x³/3 - x²",
        "A shallow well, at -1, lies before the deep one at 2.",
        _two_wells, (-2.2,), 0.05,
        (-1.0,), (Place("local minimum", (-1.0,)), Place("minimum", (2.0,))), ((-2.4, 3.2),),
    ),
    Surface(
        "hill-1d", "A small hill", "f(x) = x²/8 + exp(-2(x + 2)²)",
        "A small hill stands about -2, before the minimum at 0.01; in front of it, at -2.89, there is a local minimum.",
        lambda x: x**2 / 8 + _bump((x + 2) ** 2), (-5.0,), 0.15,
        (-2.5,), (Place("local minimum", DIP), Place("minimum", BEHIND)), ((-5.5, 3.0),),
    ),
    Surface(
        "slope-2d", "A slope: a valley that falls", "f(x, y) = √(1 + x²) + 3y²",
        "A valley with steep walls falls gently towards the minimum at (0, 0).",
        lambda x, y: torch.sqrt(1 + x**2) + 3 * y**2, (-8.0, 2.0), 0.2,
        (-4.0, 0.0), (Place("minimum", (0.0, 0.0)),), ((-9.0, 4.0), (-4.0, 4.0)),
    ),
    Surface(
        "plateau-2d", "A plateau", "f(x, y) = x⁶/6 - 2x⁵/5 + x²/100 - x/25 + y²",
        "There is hardly a slope about (0, 0), half-way to the minimum at (2, 0).",
        lambda x, y: _plateau(x) + y**2, (-1.2, 1.0), 0.05,
        (0.0, 0.0), (Place("plateau", (0.0, 0.0)), Place("minimum", (2.0, 0.0))), ((-1.6, 2.9), (-1.4, 1.4)),
    ),
    Surface(
        "saddle-2d", "A saddle where three valleys meet", "f(x, y) = x³/3 - xy² + (x² + y²)²/8",
        "Three ridges and three valleys meet at (0, 0), where the slope is 0; the start lies on top of a ridge.",
        lambda x, y: x**3 / 3 - x * y**2 + (x**2 + y**2) ** 2 / 8, (1.5, 0.0), 0.1,
        (0.0, 0.0), (Place("saddle", (0.0, 0.0)), Place("minimum", (-2.0, 0.0)), Place("minimum", (1.0, 3**0.5)), Place("minimum", (1.0, -(3**0.5)))),
        ((-3.4, 2.6), (-2.3, 2.3)),
    ),
    Surface(
        "local-minimum-2d", "A local minimum", "f(x, y) = x⁴/4 - x³/3 - x² + (y - x/2)²",
        "A shallow well, at (-1, -0.5), lies before the deep one at (2, 1).",
        lambda x, y: _two_wells(x) + (y - x / 2) ** 2, (-2.2, 0.5), 0.05,
        (-1.0, -0.5), (Place("local minimum", (-1.0, -0.5)), Place("minimum", (2.0, 1.0))), ((-2.5, 3.1), (-1.5, 2.2)),
    ),
    Surface(
        "hill-2d", "A small hill", "f(x, y) = (x² + y²)/8 + exp(-2(x + 2)² - 2y²)",
        "A small hill stands about (-2, 0), before the minimum at (0.01, 0); in front of it, at (-2.89, 0), there is a saddle.",
        lambda x, y: (x**2 + y**2) / 8 + _bump((x + 2) ** 2 + y**2), (-5.0, 0.0), 0.15,
        (-2.5, 0.0), (Place("saddle", (*DIP, 0.0)), Place("minimum", (*BEHIND, 0.0))), ((-5.5, 3.0), (-3.0, 3.0)),
    ),
    Surface(
        "ridge-2d", "A saddle that is reached along its axis", "f(x, y) = x²/2 - y²/2 + y⁴/4",
        "On the axis that leads to the saddle at (0, 0) no slope points aside: without noise, what begins on it stays on it.",
        lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, (-1.5, 0.0), 0.1,
        (0.0, 0.0), (Place("saddle", (0.0, 0.0)), Place("minimum", (0.0, 1.0)), Place("minimum", (0.0, -1.0))), ((-2.0, 2.0), (-1.5, 1.5)),
    ),
)  # fmt: skip
"""All of them, one dimension first."""
