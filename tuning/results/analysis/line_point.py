"""A place between two solutions: light, so that figures need no torch."""

from typing import NamedTuple


class LinePoint(NamedTuple):
    """One place on the way from one solution to another."""

    at: float
    """0: the first; 1: the second."""
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
