"""Metric: what a score is called, and which way is better."""

import math
from typing import Literal, NamedTuple

DIRECTIONS = ("higher", "lower")


class Metric(NamedTuple):
    """The name of a score, and its direction."""

    name: str
    """Such as accuracy, loss, perplexity, r2; a person's own task may give any."""
    better: Literal["higher", "lower"]
    is_fraction: bool = False
    """Whether it lies between 0 and 1 and is read as a percentage."""

    def is_better(self, score: float, other: float) -> bool:
        """Whether `score` is better than `other`, and not as good."""
        return score > other if self.better == "higher" else score < other

    def meets(self, score: float, target: float) -> bool:
        """Whether `score` is as good as `target`, or better."""
        return not self.is_better(target, score)

    def goodness(self, score: float) -> float:
        """A number that is larger the better the score is."""
        return score if self.better == "higher" else -score

    def fraction(self, score: float) -> float:
        """A number between 0 and 1 that is larger the better the score is: a fraction itself, of any other score its arc tangent's."""
        return score if self.is_fraction and self.better == "higher" else 0.5 + math.atan(self.goodness(score)) / math.pi

    def best(self, scores: "list[float]") -> float:
        """The best of some scores. Raises: ValueError where there are none."""
        return max(scores) if self.better == "higher" else min(scores)

    def in_words(self, score: float) -> str:
        """A score with its name, such as "accuracy 0.9125" or "loss 1.234"."""
        return f"{self.name} {self.format(score)}"

    def format(self, score: float) -> str:
        """A score as text: of a fraction four places (see `in_places`), of others four digits."""
        return in_places(score) if self.is_fraction else f"{score:.4g}"


def in_places(score: float) -> str:
    """A score among others in a table, whatever its metric: four places, and four digits of one that they would blur."""
    return f"{score:.4f}" if not score or abs(score) >= BLURRED else f"{score:.4g}"


BLURRED = 0.01
"""Below this, four places are fewer than three digits."""


ACCURACY = Metric("accuracy", "higher", is_fraction=True)
LOSS = Metric("loss", "lower")
