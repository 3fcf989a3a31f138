"""How long a run's threads had to wait for a core: whether its seconds are those of a free machine."""

import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from largebatch.jobs.engine.ranks.ranks import Ranks

THREADS = Path("/proc/self/task")
SHORTEST_S = 1.0
"""Seconds below which a single turn of somebody else's would count for much."""
SEVERAL_TURNS_S = 0.1
"""Of waits together, which no single turn makes: then a shorter stretch, too, was disturbed."""
DISTURBED = 0.1
"""From this fraction on, the seconds of a run say more of the machine's other work than of the run."""


ADVICE = " Where it stays so, OMP_WAIT_POLICY=passive makes training faster."


class CoreWait:
    """The fraction of a stretch of time for which this process's threads stood ready and every core was taken by others.

    Linux counts it for each thread; where no such count is, the fraction is not known. A process held to less than a core (a container's limit)
    waits in the same way. Of less than a second nothing is said, unless much of it was waited.
    """

    def __init__(self, threads: Path = THREADS, shortest_s: float = SHORTEST_S) -> None:
        self._threads, self._shortest_s = threads, shortest_s
        self._waited_s, self._began_s = waited_s(threads), time.perf_counter()

    def fraction(self) -> float | None:
        """Since this was made, per thread that computes: 0, always a core when one was needed, to 1; None: not known."""
        now_s = waited_s(self._threads)
        elapsed_s = time.perf_counter() - self._began_s
        if now_s is None or self._waited_s is None:
            return None
        waited_since_s = max(now_s - self._waited_s, 0.0)
        if elapsed_s < self._shortest_s and waited_since_s < SEVERAL_TURNS_S:
            return None
        return min(waited_since_s / (elapsed_s * torch.get_num_threads()), 1.0)

    def longest(self, ranks: Ranks) -> float | None:
        """The fraction of the rank whose threads waited most: the others waited for it. Every rank must call this."""
        return max((fraction for fraction in ranks.gathered(self.fraction()) if fraction is not None), default=None)


def waited_s(threads: Path = THREADS) -> float | None:
    """Seconds that the threads of this process have waited for a core so far, all together; None: the system does not say."""
    waits_ns = []
    for count in threads.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # the thread has ended meanwhile, or the kernel keeps no such count
            waits_ns.append(int(count.read_text().split()[1]))
    return sum(waits_ns) / 1e9 if waits_ns else None


def in_words(fraction: float | None) -> str | None:
    """What a person should know of a disturbed clock; None where it was not disturbed, or nothing is known."""
    if fraction is None or fraction < DISTURBED:
        return None
    is_advised = torch.get_num_threads() > 1 and "OMP_WAIT_POLICY" not in os.environ  # one thread waits for no other
    return (
        f"The machine was busy with other work: this run's threads waited {fraction:.0%} of the time for a core,"
        f" so its seconds are longer than on a free machine.{ADVICE if is_advised else ''}"
    )
