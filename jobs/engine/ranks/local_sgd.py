"""Post-local SGD (Lin et al., arXiv:1808.07217): from some epoch on, ranks step alone and average now and then.

Each rank takes H optimizer steps with the mean gradient over its own share of each global batch; then weights,
running statistics, the optimizer's moments and the moving average of weights are averaged over ranks. Averaging all
of them makes all ranks equal at every synchronisation, so that a checkpoint of rank 0 is a checkpoint of the run.
(A moving average is linear: the mean of the ranks' averages is the average of the ranks' mean weights.) Samples,
schedules and evaluations stay those of the global batch; the gradient is no longer that of one batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.engine.ranks.ranks import Ranks, sum_together
from largebatch.jobs.errors import FaultError


class LocalSGD:
    """Averages what the ranks have after steps that each has taken by itself.

    Args: averages: the moving average of weights, where the run keeps one.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, ranks: Ranks, averages: list[Tensor]) -> None:
        self.num_apart = 0
        """Steps since all ranks were equal."""
        self._model, self._optimizer, self._ranks, self._averages = model, optimizer, ranks, averages

    def count_step(self, num_steps: int) -> None:
        """Note that each rank has taken a step by itself; after `num_steps` of them average."""
        self.num_apart += 1
        if self.num_apart == num_steps:
            self.synchronise()

    @torch.no_grad()
    def synchronise(self) -> None:
        """Average what the ranks have; nothing to do where they are equal. Every rank must call this.

        Raises: FaultError, on every rank, if they hold different things.
        """
        if not self.num_apart:
            return
        self.num_apart = 0
        values = [value for value in self._values() if value.is_floating_point()]
        num_values = sum(value.numel() for value in values)
        if len(set(self._ranks.gathered(num_values))) > 1:
            raise FaultError(
                "reduction.local_steps",
                "some workers have optimizer state for a parameter that no sample of another worker has reached yet; there is nothing to average.",
                "Set reduction.local_steps to 1, or a later reduction.local_from_epoch.",
            )
        sum_together(values, divisor=self._ranks.world_size)
        self._ranks.take_from_first([buffer for buffer in self._model.buffers() if not buffer.is_floating_point()])

    def _values(self) -> Iterator[Tensor]:
        for tensor in (*self._model.parameters(), *self._model.buffers(), *self._averages):
            yield tensor.detach()
        for param_group in self._optimizer.param_groups:
            for param in param_group["params"]:
                yield from (value for value in self._optimizer.state[param].values() if isinstance(value, Tensor))
