"""Post-local SGD (Lin et al., arXiv:1808.07217): from some epoch on, ranks step alone and average now and then.

Each rank takes H optimizer steps with the mean gradient over its own share of each global batch; then weights,
running statistics and the optimizer's moments are averaged over ranks. Averaging the moments too makes all ranks
equal at every synchronisation, so that a checkpoint of rank 0 is a checkpoint of the run. Samples, schedules and
evaluations stay those of the global batch; the gradient is no longer that of one batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jobs.engine.gradients import LocalSum
from jobs.engine.group import Group


class LocalSteps:
    """What one rank needs to step alone."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, group: Group) -> None:
        self.gradients = LocalSum(model)
        self.num_apart = 0
        """Steps since all ranks were equal."""
        self._model, self._optimizer, self._group = model, optimizer, group

    @torch.no_grad()
    def synchronise(self) -> None:
        """Average what the ranks have; nothing to do where they are equal. Every rank must call this."""
        if not self.num_apart:
            return
        self.num_apart = 0
        values = [value for value in self._values() if value.is_floating_point()]
        for dtype in dict.fromkeys(value.dtype for value in values):
            same = [value for value in values if value.dtype == dtype]
            flat = self._group.sum(torch.cat([value.reshape(-1) for value in same])).div_(self._group.world_size)
            for value, piece in zip(same, torch.split(flat, [value.numel() for value in same]), strict=True):
                value.copy_(piece.view(value.shape))
        self._group.take_from_first([buffer for buffer in self._model.buffers() if not buffer.is_floating_point()])

    def _values(self) -> Iterator[Tensor]:
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            yield tensor.detach()
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                yield from (value for value in self._optimizer.state[param].values() if isinstance(value, Tensor))
