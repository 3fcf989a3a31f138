"""Tells a model's norms which forward pass they are in, and counts what they did in it.

A norm sees rows, and neither how many samples these are of, nor whether they went through it before, nor whether it runs in
the forward pass or again in the backward pass, for activation checkpointing. Only the engine knows.
"""

from torch import Tensor

Run = tuple[int, int]
"""(number of the norm in the model, how often it had run before in the same forward pass)"""


class ForwardPass:
    """The forward pass that the norms of one model share; the engine calls `begin` and `end` around every forward pass that trains.

    Args: span: samples that share statistics; None: no norm of the model may take any of its inputs.
    """

    def __init__(self, span: int | None) -> None:
        self.span = span
        self.num_samples: int | None = None
        """Samples that go through the model; None: nobody said, and every row is a sample."""
        self.is_over = False
        """Whether what runs now ran before, in the forward pass that has ended: it moves no statistics."""
        self.runs: dict[Run, int] = {}
        """Groups by which each run of this pass moved running statistics. Compiled code finds this empty at every begin."""
        self.moves: dict[Run, int] = {}
        """Groups by which each run moved running statistics, summed over the passes of this step."""
        self.apart: dict[Run, dict[str, Tensor]] = {}
        """The statistics of a norm's second and later runs in this step's passes; those of the first are the norm's own."""

    def start_step(self) -> None:
        """Begin a step: nothing has moved yet."""
        self.runs.clear()
        self.moves.clear()
        self.apart.clear()

    def begin(self, num_samples: int) -> None:
        """Say how many samples the next forward pass is of."""
        self.num_samples, self.is_over = num_samples, False
        self.runs.clear()

    def end(self) -> None:
        """Say that the forward pass has ended: what runs from here to the next `begin` runs again."""
        for run, groups in self.runs.items():
            self.moves[run] = self.moves.get(run, 0) + groups
        self.runs.clear()
        self.is_over = True

    def forget(self) -> None:
        """Say that nobody announces passes from here on: every row is a sample, and every run moves the norm's statistics."""
        self.num_samples, self.is_over = None, False
        self.start_step()

    def note(self, norm: int, groups: int) -> Run:
        """Count a run of a norm in this pass; returns which it is."""
        number = 0
        while (norm, number) in self.runs:
            number += 1
        self.runs[norm, number] = groups
        return norm, number
