"""How long this process stood still while clocks went on: stopped (Ctrl-Z, SIGSTOP, a scheduler that suspends jobs) or frozen with its container."""

import threading
import time

import torch

from largebatch.jobs.engine.ranks.ranks import Ranks

BEAT_S = 0.1
SHORTEST_S = 3.0
"""A shorter pause may be one of the system's own."""
IDLE = 0.5
"""Processor seconds per second: a call that holds Python's lock for long takes 1 or more. A stop takes none, but what its threads compute just
before and after."""


class Standstill:
    """Between `begin` and `end`, or as a context: a thread wakes up every `beat_s`. Where it was late by more than `shortest_s` and the process
    computed nothing, nobody could.

    A process whose storage answers nothing for so long, while Python waits for it, looks the same.

    Args: beat_s, shortest_s: seconds.
    """

    def __init__(self, beat_s: float = BEAT_S, shortest_s: float = SHORTEST_S) -> None:
        self.seconds = 0.0
        """So far."""
        self._beat_s, self._shortest_s = beat_s, shortest_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> None:
        """Watch no longer; a stop that has just ended counts."""
        self._over.set()
        self._thread.join()

    def __enter__(self) -> "Standstill":
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def longest(self, ranks: Ranks) -> float:
        """The seconds of the rank that stood still longest: the others waited for it. Every rank must call this."""
        return max(ranks.gathered(self.seconds))

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            began_s, computed_s = time.perf_counter(), time.process_time()
            is_over = self._over.wait(self._beat_s)
            late_s = time.perf_counter() - began_s - self._beat_s
            most_s = IDLE * late_s + 2 * self._beat_s * torch.get_num_threads()
            if late_s >= self._shortest_s and time.process_time() - computed_s < most_s:
                self.seconds += late_s


def in_words(stopped_s: float, training_s: float) -> str | None:
    """What a person should know of a run that stood still; None where it did not."""
    if not stopped_s:
        return None
    return (
        f"The run stood still for {stopped_s:.0f} s (Ctrl-Z, SIGSTOP, a frozen container or machine, or storage that did not answer);"
        f" its clock went on, so its {training_s:.0f} s of training may count that."
    )
