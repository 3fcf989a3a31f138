"""Python's garbage collector, kept out of the way where a command begins and where it ends.

Torch, Ray and MLflow make some hundred thousand objects when they are imported, and all of them stay. To look through them at
every seven hundredth, and to take them apart one by one at the end, is a quarter of what a short command takes.
"""

import atexit
import gc

OBJECTS = 10_000
"""New ones before the collector looks at them. A pass of training makes few; where memory runs out, all is collected at once."""


def collect_seldom() -> None:
    """For the processes that are ours alone, before they import what is heavy; a program that imports this package keeps its own ways."""
    gc.set_threshold(OBJECTS)
    atexit.register(gc.freeze)  # what is frozen is left to the system, which takes the memory back at once
