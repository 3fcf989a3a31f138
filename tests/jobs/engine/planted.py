"""A loss whose gradient is planted: each sample's is the sample itself."""

from typing import Any, NamedTuple

from torch import Tensor

from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.base import Task


class Rows(NamedTuple):
    """Samples in a fixed order, of any number of parts: what each one's gradient is, what it weighs."""

    parts: tuple[Tensor, ...]

    def read(self, samples: Slice) -> tuple[Tensor, ...]:
        return tuple(part[samples.start : samples.stop] for part in self.parts)


class Planted(Task):
    """Over a model whose output for a sample is its inner product with the weights; a batch is (gradients, weights)."""

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        total: Tensor = model(batch[0]).sum()
        return total

    def weight(self, batch: Any) -> Tensor:
        total: Tensor = batch[1].sum()
        return total

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {}
