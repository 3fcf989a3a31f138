"""The clocks of another program's loop, of which often only the next call says whether what was since the last step was training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from largebatch.jobs.engine.clock import Clock


class LoopClock(Clock):
    """Keeps the time of the last step, to count nothing of what came after it where that was no training."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._marked_s = 0.0
        self._step_s: float | None = 0.0
        self._has_stepped = self._is_told = False

    def begin_loop(self) -> None:
        """Count a loop over batches from here on; one that still runs was left at its last step, or is read beside this one."""
        if self.trains and not self._has_stepped:
            return
        self.leave_last_step()
        self.stop_training()
        self.start_training()
        self._step_s, self._has_stepped, self._is_told = self.training_s, False, False

    def take_step(self) -> float:
        """The training seconds at the step just done."""
        self._step_s = self.read_training_s()
        self._has_stepped, self._is_told = True, False
        return self._step_s

    def pass_step(self) -> None:
        """The same for a step whose end the device may not be waited for: its time is not known there."""
        if self._device.type == "cuda":
            self._step_s, self._has_stepped, self._is_told = None, True, False
        else:
            self.take_step()

    def leave_last_step(self) -> float | None:
        """Count nothing of what was since the last step, unless a pause has said what of it was no training.

        Returns: the training seconds that there are; None where that step's time is not known, and everything stays counted.
        """
        if not self.trains or self._is_told:
            return self.read_training_s()
        if self._step_s is not None:
            self.stop_training()
            self.training_s = self._step_s
            self.start_training()
        return self._step_s

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Count what is inside as no training."""
        goes_on = self.trains
        self.stop_training()
        try:
            yield
        finally:
            self._is_told = True
            if goes_on:
                self.start_training()

    def mark(self) -> None:
        """Take note of the training seconds, for `stop`."""
        self._marked_s = self.read_training_s()

    def stop(self, to_mark: bool) -> None:
        """Count what follows no longer, nor, `to_mark`, what was since the mark; nothing to do where nothing is counted."""
        if self.trains:
            self.stop_training()
            self.training_s = self._marked_s if to_mark else self.training_s
