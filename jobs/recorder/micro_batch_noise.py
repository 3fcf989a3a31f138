"""The gradient noise scale of another program's loop, from the gradients of its micro-batches.

A backward pass adds d_j = c_j g_j to `.grad`: g_j is the mean gradient of a micro-batch that weighs W_j, c_j what the loop multiplies it by,
loss scaling included. A tensor's hook is handed d_j before it is added; another sees the sum after it, which with the last micro-batch is
the whole step's, before anything unscales or clips it. With W = sum_j W_j and C = sum_j c_j,

    A = sum_j (W_j / W) |d_j / c_j|^2,    |G_B|^2 = |sum_j d_j|^2 / C^2

are what `engine/noise_scale.py` makes its estimates of, for the loop's own G_B where c_j / W_j is one number for all micro-batches.
A step of which that cannot be said is not estimated.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from largebatch.jobs.engine.noise_scale import estimate
from largebatch.jobs.errors import InputError

SAME = 1e-4
"""Relative difference below which two numbers are one that float32 has rounded."""


@dataclass
class MicroBatch:
    """What a loop says of the micro-batch that it has passed backward."""

    num_samples: int
    weight: float | Tensor | None = None
    """W_j; None: its samples."""
    coefficient: float | Tensor | None = None
    """c_j; None: its share of the step's weight."""


@dataclass
class _Passed:
    """A micro-batch with what its backward pass left, still on the device."""

    said: MicroBatch
    squared_norm: Tensor
    """|d_j|^2."""
    whole: Tensor
    """|d_1 + ... + d_j|^2."""


class _Piece(NamedTuple):
    """The same in numbers."""

    weight: float
    coefficient: float
    squared_norm: float
    whole: float


class MicroBatchNoise:
    """Measures the noise of the steps of a loop that says when each micro-batch's backward pass begins and ends.

    In a step that is not measured, and between steps, no hook is there.

    Args:
        optimizer: whose parameters' gradients are measured.
        every_steps: 0: never; "auto": each step.
        world_size: with several processes nothing is measured: a hook sees this process's gradient, not the one that all step by.
        say: is told, once, of each reason why a step is not estimated.
    """

    def __init__(self, optimizer: Optimizer, every_steps: int | Literal["auto"], world_size: int, say: Callable[[str], None]) -> None:
        if every_steps != "auto" and (type(every_steps) is not int or every_steps < 0):
            raise InputError("noise_every_steps", f"is {every_steps!r}.", 'Give a whole number of steps, 0 for never, or "auto".')
        self._optimizer, self._every = optimizer, 1 if every_steps == "auto" else every_steps
        self._world_size, self._say = world_size, say
        self._step = 1
        self._told: set[str] = set()
        self._hooks: list[RemovableHandle] = []
        self._passed: list[_Passed] = []
        self._arrived: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self._is_exact = True

    @property
    def is_due(self) -> bool:
        """Whether the step that runs is measured."""
        return self._every > 0 and self._step % self._every == 0

    def refuse(self, reason: str) -> None:
        """Measure nothing from here on. Args: reason: told in the journal."""
        self.close()
        self._tell(f"The noise scale is not measured: {reason}.")

    def begin(self) -> None:
        """A micro-batch's backward pass is about to run."""
        if not self.is_due:
            return
        if self._world_size > 1:
            self.refuse("several processes train, and each of them sees the gradient of its own samples")
            return
        if not self._hooks:
            params = [param for group in self._optimizer.param_groups for param in group["params"] if param.requires_grad]
            for number, param in enumerate(params):
                self._hooks += [
                    param.register_hook(partial(self._arrives, number)),
                    param.register_post_accumulate_grad_hook(partial(self._adds_up, number)),
                ]
        self._arrived = {}

    def end(self, said: MicroBatch) -> None:
        """The backward pass has run. Args: said: may still be changed until the step is done."""
        if self._hooks and self._arrived:
            self._passed.append(_Passed(said, _sum(self._arrived), _sum(self._sums)))

    @contextmanager
    def micro_batch(self, said: MicroBatch) -> Iterator[None]:
        """Around one backward pass."""
        self.begin()
        yield
        self.end(said)

    def take(self, num_samples: int) -> tuple[float, float] | None:
        """The estimates of tr(Sigma) and |G|^2 of the step just done; None where it was not measured. Args: num_samples: the step's."""
        passed, is_exact, number = self._passed, self._is_exact, self._step
        self._let_go()
        self._step += 1
        if not is_exact:
            self.refuse("a micro-batch's gradient comes in several parts, by several backward passes or by checkpointing that re-enters autograd")
        if not is_exact or len(passed) < 2:
            return None
        pieces = _pieces(passed)
        if not all(math.isfinite(value) for piece in pieces for value in piece):  # as where loss scaling has overflowed
            return None
        reason = _why_inexact(passed, pieces, num_samples)
        if reason:
            self._tell(f"The noise scale leaves steps out, such as step {number}: {reason}.", kind=reason)
            return None
        return _estimate([piece for piece in pieces if piece.weight], pieces[-1].whole, num_samples)

    def close(self) -> None:
        """Measure nothing from here on: the recording is over."""
        self._every = 0
        self._let_go()

    def _let_go(self) -> None:
        """Of the parameters, and of what the step has left."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._passed, self._arrived, self._sums, self._is_exact = [], [], {}, {}, True

    def _tell(self, text: str, kind: str = "") -> None:
        """Say a thing once. Args: kind: what makes it the same; "": its text."""
        if (kind or text) not in self._told:
            self._told.add(kind or text)
            self._say(text)

    def _arrives(self, number: int, gradient: Tensor) -> None:
        self._is_exact = self._is_exact and number not in self._arrived
        self._arrived[number] = _squared_norm(gradient)

    def _adds_up(self, number: int, param: Tensor) -> None:
        if param.grad is not None:
            self._sums[number] = _squared_norm(param.grad)


def _pieces(passed: Sequence[_Passed]) -> list[_Piece]:
    """A step's micro-batches in numbers: here the device is waited for."""
    weights = [number_of(each.said.num_samples if each.said.weight is None else each.said.weight) for each in passed]
    shares = [weight / (sum(weights) or 1.0) for weight in weights]
    return [
        _Piece(
            weight, share if each.said.coefficient is None else number_of(each.said.coefficient), number_of(each.squared_norm), number_of(each.whole)
        )
        for each, weight, share in zip(passed, weights, shares, strict=True)
    ]


def _why_inexact(passed: Sequence[_Passed], pieces: Sequence[_Piece], num_samples: int) -> str:
    """What keeps the step's gradient from being the weighted mean of its micro-batches' own, in words; "" where nothing does."""
    read = sum(each.said.num_samples for each in passed)
    if read != num_samples:
        return "the samples of its micro-batches are not as many as the step's"
    if not math.isclose(pieces[0].squared_norm, pieces[0].whole, rel_tol=SAME):
        return "there were gradients before its first micro-batch"
    ratios = [piece.coefficient / piece.weight for piece in pieces if piece.weight]
    if ratios and not math.isclose(min(ratios), max(ratios), rel_tol=SAME):
        return "its micro-batches differ in size, and the loop weighs them alike"
    return ""


def _estimate(pieces: Sequence[_Piece], whole: float, num_samples: int) -> tuple[float, float] | None:
    """The step's estimates, as our engine makes them. Args: pieces: that weigh something; whole: |sum_j d_j|^2."""
    weight, coefficient = sum(piece.weight for piece in pieces), sum(piece.coefficient for piece in pieces)
    if len(pieces) < 2 or coefficient <= 0:
        return None
    mean_squared_norm = sum(piece.weight / weight * piece.squared_norm / piece.coefficient**2 for piece in pieces)
    return estimate(mean_squared_norm, whole / coefficient**2, num_samples, len(pieces))


def _squared_norm(gradient: Tensor) -> Tensor:
    """Of one parameter's gradient, in at least float32."""
    values = gradient.detach().coalesce().values() if gradient.is_sparse else gradient.detach()
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
    return norm.square()


def _sum(squared_norms: dict[int, Tensor]) -> Tensor:
    """Of parameters that may lie on several devices."""
    norms = list(squared_norms.values())
    return torch.stack([norm.to(norms[0].device) for norm in norms]).sum()


def number_of(value: float | Tensor) -> float:
    """A number on the host."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def finite_number_of(value: float | Tensor | None) -> float | None:
    """The same; None for what is none or not finite."""
    return None if value is None or not math.isfinite(number := number_of(value)) else number
