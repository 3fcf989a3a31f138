"""The Pareto frontier: what no other run beats in every respect."""

from collections.abc import Sequence


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the points that no other beats, by rising first cost.

    A point is beaten if another is no worse in both costs and better in one; equal points do not beat each other.

    Args: points: two costs each, smaller is better; negate what should be large. NaN and infinite costs never stand.
    """
    order = sorted((n for n, point in enumerate(points) if all(abs(cost) < float("inf") for cost in point)), key=lambda n: points[n])
    kept: list[int] = []
    for number in order:
        if not kept or points[number][1] < points[kept[-1]][1] or points[number] == points[kept[-1]]:
            kept.append(number)
    return kept
