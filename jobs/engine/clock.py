"""Three clocks kept apart: training seconds, evaluation seconds, and everything else.

Training: reading samples, forward, backward, reduction, update. Not in it: kernel warm-up and compilation,
evaluation, checkpoints, tracking beyond the journal's line. The device is waited for before a clock is read.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up seconds by kind; a resumed run goes on from the seconds already spent.

    Args: began: what `time.perf_counter` said when this process began to work on the run; default: now.
    """

    def __init__(self, device: torch.device, began: float | None = None) -> None:
        self._device = device
        self.training_s = self.evaluation_s = 0.0
        self._began = time.perf_counter() if began is None else began
        self._training_since: float | None = None
        self._evaluates = False

    def go_on_from(self, training_s: float, evaluation_s: float, wall_s: float) -> None:
        """Count what earlier processes of this run spent too; the beginning of this process stays."""
        self.training_s, self.evaluation_s = training_s, evaluation_s
        self._began -= wall_s

    @property
    def wall_s(self) -> float:
        """Seconds since this process began to work on the run, and those of earlier ones up to the checkpoint that was loaded."""
        return time.perf_counter() - self._began

    @property
    def trains(self) -> bool:
        """Whether what happens now counts as training."""
        return self._training_since is not None

    def start_training(self) -> None:
        """Count what follows as training."""
        self._training_since = self._now()

    def stop_training(self) -> None:
        """Count what follows no longer; nothing to do where it is not counted."""
        self.training_s, self._training_since = self.read_training_s(), None

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count what is inside as training."""
        self.start_training()
        try:
            yield
        finally:
            self.stop_training()

    def read_training_s(self) -> float:
        """The training seconds up to now; the same as `training_s` outside of training."""
        return self.training_s if self._training_since is None else self.training_s + self._now() - self._training_since

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count what is inside as evaluation, once where it is inside of itself."""
        if self._evaluates:
            yield
            return
        began, self._evaluates = self._now(), True
        try:
            yield
        finally:
            self.evaluation_s += self._now() - began
            self._evaluates = False

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
