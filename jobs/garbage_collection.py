"""Raises the threshold of Python's garbage collector while a command starts.

torch, Ray and MLflow make some hundred thousand objects when they are imported, and all of them stay: to look through them at every seven
hundredth is 0.5 s of the 6.4 s that `largebatch train` takes for three steps of F1 on MNIST (docs/results/speedups.md).
"""

import gc

THRESHOLD = 10_000
"""New objects before the collector looks at them. A step makes few; where memory runs out, all is collected at once."""


def collect_seldom() -> None:
    """For the processes that are ours alone, before they import what is heavy; a program that imports this package keeps its own ways."""
    gc.set_threshold(THRESHOLD)
