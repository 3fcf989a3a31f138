"""Python's garbage collector, kept out of the way where a command begins and where it ends.

Torch, Ray and MLflow make some hundred thousand objects when they are imported, and all of them stay. To look through them at
every seven hundredth, and to take them apart one by one at the end, is up to a quarter of what such a process takes to start and end.
"""

import atexit
import gc

OBJECTS = 10_000
"""New ones before the collector looks at them. A pass of training makes few; where memory runs out, all is collected at once."""


def collect_seldom() -> None:
    """For the processes that are ours alone, before they import what is heavy; a program that imports this package keeps its own ways."""
    gc.set_threshold(OBJECTS)
    atexit.register(_leave_to_the_system)


def _leave_to_the_system() -> None:
    """What is frozen is not taken apart: the system takes the memory back at once.

    Not where nanobind's bindings are (Triton's, by way of torchvision): they would print all that was left as leaked.
    """
    if not any(kind.__module__ == "nanobind" for kind in object.__subclasses__()):
        gc.freeze()
