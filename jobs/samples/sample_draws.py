"""SampleDraws: random numbers that belong to samples, for what a task draws itself: masks, noise, times of a diffusion."""

import math

import torch
from torch import Tensor

from largebatch.jobs.samples.keyed_random import bits, key, streams
from largebatch.jobs.samples.slice import Slice

EVALUATION = -1
"""The epoch of draws in evaluation: every evaluation draws the same for the same sample, so that scores can be compared."""


class SampleDraws:
    """Draws for some samples by (seed, epoch, place in the epoch's order) and purpose: the same under any micro-batch and number of workers.

    Args:
        samples: which; of epoch `EVALUATION` where they are evaluated.
        device: where the numbers are made; they are the same on each.
    """

    def __init__(self, seed: int, samples: Slice, device: torch.device) -> None:
        self._seed, self._epoch = seed, samples.epoch
        self._places = torch.arange(samples.start, samples.stop, device=device)

    @property
    def in_evaluation(self) -> bool:
        """Whether the samples are evaluated."""
        return self._epoch == EVALUATION

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """(n, *shape) float32 in [0, 1), multiples of 2^-24; other numbers for another purpose."""
        states = bits(key(self._seed, "draws", purpose, self._epoch), self._places)
        words = streams(states, key(purpose), math.prod(shape))
        return ((words >> 40).bitwise_and_((1 << 24) - 1).to(torch.float32) * 2.0**-24).reshape(len(self._places), *shape)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """(n, *shape) float32 with mean 0 and variance 1, by the inverse of the normal distribution; at most 5.4 from 0."""
        numbers: Tensor = torch.special.ndtri(self.uniform(purpose, *shape) + 2.0**-25)
        return numbers

    def integers(self, purpose: str, high: int, *shape: int) -> Tensor:
        """(n, *shape) int64 in [0, high); high at most 2^24."""
        return (self.uniform(purpose, *shape) * high).floor().to(torch.int64)
