"""The surfaces that the pictures of optimizers are made on: functions of one and two variables, with a start and the places that matter.

To add one: its line in `SURFACES`; a test holds its equation, the gradient at its places and what kind they are.
"""

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
    """What there is to see."""
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

    def place_near(self, point: Point) -> Place | None:
        """The nearest named place, if it lies within a twelfth of the picture's width."""
        distances = [(sum((a - b) ** 2 for a, b in zip(place.at, point, strict=True)) ** 0.5, place) for place in self.places]
        distance, nearest = min(distances, key=lambda pair: pair[0])
        low, high = self.view[0]
        return nearest if distance <= (high - low) / 12 else None


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
        "The slope is the same far and wide: descent goes at one pace, momentum gathers speed, rolls past the minimum and comes back.",
        lambda x: torch.sqrt(1 + x**2), (-8.0,), 0.1,
        (-4.0,), (Place("minimum", (0.0,)),), ((-9.0, 4.0),),
    ),
    Surface(
        "plateau-1d", "A plateau", "f(x) = x⁶/6 - 2x⁵/5 + x²/100 - x/25",
        "There is hardly a slope about 0: descent creeps, momentum crosses with the speed that it brought.",
        _plateau, (-1.2,), 0.05,
        (0.0,), (Place("plateau", (0.0,)), Place("minimum", (2.0,))), ((-1.6, 2.9),),
    ),
    Surface(
        "saddle-1d", "A saddle", "f(x) = x⁴/4 - 2x³/3",
        "The slope is 0 at 0, though it goes on downhill behind: descent stops there, momentum passes.",
        lambda x: x**4 / 4 - 2 * x**3 / 3, (-1.0,), 0.1,
        (0.0,), (Place("saddle", (0.0,)), Place("minimum", (2.0,))), ((-1.4, 2.9),),
    ),
    Surface(
        "local-minimum-1d", "A local minimum", "f(x) = x⁴/4 - x³/3 - x²",
        "Descent ends in the shallow well, momentum rolls out of it into the deep one.",
        _two_wells, (-2.2,), 0.05,
        (-1.0,), (Place("local minimum", (-1.0,)), Place("minimum", (2.0,))), ((-2.4, 3.2),),
    ),
    Surface(
        "hill-1d", "A small hill", "f(x) = x²/8 + exp(-2(x + 2)²)",
        "With momentum the ball rolls over the hill: there its real move goes against the negative gradient. Descent stops in front.",
        lambda x: x**2 / 8 + _bump((x + 2) ** 2), (-5.0,), 0.15,
        (-2.5,), (Place("local minimum", DIP), Place("minimum", BEHIND)), ((-5.5, 3.0),),
    ),
    Surface(
        "slope-2d", "A slope: a valley that falls", "f(x, y) = √(1 + x²) + 3y²",
        "Descent goes down to the floor and along it at one pace; momentum swings between the walls and gathers speed, Nesterov's swings less.",
        lambda x, y: torch.sqrt(1 + x**2) + 3 * y**2, (-8.0, 2.0), 0.2,
        (-4.0, 0.0), (Place("minimum", (0.0, 0.0)),), ((-9.0, 4.0), (-4.0, 4.0)),
    ),
    Surface(
        "plateau-2d", "A plateau", "f(x, y) = x⁶/6 - 2x⁵/5 + x²/100 - x/25 + y²",
        "There is hardly a slope about (0, 0): descent creeps, momentum crosses with the speed that it brought.",
        lambda x, y: _plateau(x) + y**2, (-1.2, 1.0), 0.05,
        (0.0, 0.0), (Place("plateau", (0.0, 0.0)), Place("minimum", (2.0, 0.0))), ((-1.6, 2.9), (-1.4, 1.4)),
    ),
    Surface(
        "saddle-2d", "A saddle where three valleys meet", "f(x, y) = x³/3 - xy² + (x² + y²)²/8",
        "From the top of a ridge descent comes to a stop at (0, 0); momentum passes into the valley behind, noise falls off to a side.",
        lambda x, y: x**3 / 3 - x * y**2 + (x**2 + y**2) ** 2 / 8, (1.5, 0.0), 0.1,
        (0.0, 0.0), (Place("saddle", (0.0, 0.0)), Place("minimum", (-2.0, 0.0)), Place("minimum", (1.0, 3**0.5)), Place("minimum", (1.0, -(3**0.5)))),
        ((-3.4, 2.6), (-2.3, 2.3)),
    ),
    Surface(
        "local-minimum-2d", "A local minimum", "f(x, y) = x⁴/4 - x³/3 - x² + (y - x/2)²",
        "Descent ends in the shallow well, momentum rolls out of it into the deep one.",
        lambda x, y: _two_wells(x) + (y - x / 2) ** 2, (-2.2, 0.5), 0.05,
        (-1.0, -0.5), (Place("local minimum", (-1.0, -0.5)), Place("minimum", (2.0, 1.0))), ((-2.5, 3.1), (-1.5, 2.2)),
    ),
    Surface(
        "hill-2d", "A small hill", "f(x, y) = (x² + y²)/8 + exp(-2(x + 2)² - 2y²)",
        "Momentum rolls over the hill, where its real move goes against the negative gradient; noise leads round it; descent stops in front.",
        lambda x, y: (x**2 + y**2) / 8 + _bump((x + 2) ** 2 + y**2), (-5.0, 0.0), 0.15,
        (-2.5, 0.0), (Place("saddle", (*DIP, 0.0)), Place("minimum", (*BEHIND, 0.0))), ((-5.5, 3.0), (-3.0, 3.0)),
    ),
    Surface(
        "ridge-2d", "A saddle that is reached along its axis", "f(x, y) = x²/2 - y²/2 + y⁴/4",
        "No slope points aside on the axis, so momentum, too, comes to rest at (0, 0): only the noise of a small batch finds a way down.",
        lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, (-1.5, 0.0), 0.1,
        (0.0, 0.0), (Place("saddle", (0.0, 0.0)), Place("minimum", (0.0, 1.0)), Place("minimum", (0.0, -1.0))), ((-2.0, 2.0), (-1.5, 1.5)),
    ),
)  # fmt: skip
"""All of them, one dimension first."""
