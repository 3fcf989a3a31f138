"""The surfaces' heights and gradients, and the optimizers' rules, restated in plain floats."""

import math
from collections.abc import Callable, Iterator

Vector = list[float]


def plateau(x: float) -> tuple[float, float]:
    return x**6 / 6 - 0.4 * x**5 + 0.01 * x * x - 0.04 * x, (x - 2) * (x**4 + 0.02)


def two_wells(x: float) -> tuple[float, float]:
    return x**4 / 4 - x**3 / 3 - x * x, (x + 1) * x * (x - 2)


def hill(x: float, y: float = 0.0) -> tuple[float, Vector]:
    bump = math.exp(-2 * (x + 2) ** 2 - 2 * y * y)
    return (x * x + y * y) / 8 + bump, [x / 4 - 4 * (x + 2) * bump, y / 4 - 4 * y * bump]


def slope_2d(x: float, y: float) -> tuple[float, Vector]:
    root = math.hypot(1, x)
    return root + 3 * y * y, [x / root, 6 * y]


def saddle_2d(x: float, y: float) -> tuple[float, Vector]:
    square = x * x + y * y
    return x**3 / 3 - x * y * y + square**2 / 8, [x * x - y * y + x * square / 2, -2 * x * y + y * square / 2]


def wells_2d(x: float, y: float) -> tuple[float, Vector]:
    height, slope = two_wells(x)
    return height + (y - x / 2) ** 2, [slope - (y - x / 2), 2 * (y - x / 2)]


RESTATED: dict[str, Callable[..., tuple[float, Vector]]] = {
    "slope-1d": lambda x: (math.hypot(1, x), [x / math.hypot(1, x)]),
    "plateau-1d": lambda x: (plateau(x)[0], [plateau(x)[1]]),
    "saddle-1d": lambda x: (x**4 / 4 - 2 * x**3 / 3, [x * x * (x - 2)]),
    "local-minimum-1d": lambda x: (two_wells(x)[0], [two_wells(x)[1]]),
    "hill-1d": lambda x: (hill(x)[0], hill(x)[1][:1]),
    "slope-2d": slope_2d,
    "plateau-2d": lambda x, y: (plateau(x)[0] + y * y, [plateau(x)[1], 2 * y]),
    "saddle-2d": saddle_2d,
    "local-minimum-2d": wells_2d,
    "hill-2d": hill,
    "ridge-2d": lambda x, y: (x * x / 2 - y * y / 2 + y**4 / 4, [x, y**3 - y]),
}
"""Height and gradient of each surface."""

Rule = Iterator[Callable[[Vector, Vector], Vector]]
"""For each step, what gives the next position of a position and a gradient."""


def length(vector: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


def sgd(rate: float, momentum: float = 0.0, nesterov: bool = False) -> Rule:
    """buffer = momentum * buffer + g;  w -= rate * buffer, or rate * (g + momentum * buffer)."""
    buffer = [0.0, 0.0]

    def step(weight: Vector, gradient: Vector) -> Vector:
        buffer[:] = [momentum * b + g for b, g in zip(buffer, gradient, strict=False)]
        moves = [g + momentum * b for g, b in zip(gradient, buffer, strict=True)] if nesterov else buffer
        return [w - rate * move for w, move in zip(weight, moves, strict=True)]

    while True:
        yield step


def lars(rate: float, momentum: float, nesterov: bool = False) -> Rule:
    """The same over gradients times rate * 0.001 * |w| / |g|."""
    inner = sgd(1.0, momentum, nesterov)

    def step(weight: Vector, gradient: Vector) -> Vector:
        ratio = rate * 0.001 * length(weight) / length(gradient)
        return next(inner)(weight, [ratio * g for g in gradient])

    while True:
        yield step


def adam(rate: float, beta1: float, epsilon: float, beta2: float = 0.999, is_lamb: bool = False) -> Rule:
    """w -= rate * u with u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon); of LAMB times |w| / |u|."""
    m, v, steps = [0.0, 0.0], [0.0, 0.0], 0

    def step(weight: Vector, gradient: Vector) -> Vector:
        m[:] = [beta1 * a + (1 - beta1) * g for a, g in zip(m, gradient, strict=False)]
        v[:] = [beta2 * a + (1 - beta2) * g * g for a, g in zip(v, gradient, strict=False)]
        update = [a / (1 - beta1**steps) / (math.sqrt(b / (1 - beta2**steps)) + epsilon) for a, b in zip(m, v, strict=True)]
        ratio = length(weight) / length(update) if is_lamb else 1.0
        return [w - rate * ratio * u for w, u in zip(weight, update, strict=True)]

    while True:
        steps += 1
        yield step
