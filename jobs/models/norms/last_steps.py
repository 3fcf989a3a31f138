"""Running statistics without moving averages: the plain mean over the batch-norm groups of the last steps (Akiba et al., arXiv:1711.04325).

    running <- mean over all groups, of all micro-batches on all ranks, of the last n steps, of each group's mean (and unbiased variance)

Every group counts the same, as in a running mean. A norm that averages plainly over all groups it has counted (torch's momentum None), and
forgets its count as a step begins, has the mean over that step's groups; `BatchNormStatistics` makes it that of all ranks' groups. The means of
the n - 1 steps before are kept here. `num_batches_tracked` is the number of groups in the mean.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, copied_statistics, ghost_norms, statistics_of

COUNT = "num_batches_tracked"
Statistics = dict[str, dict[str, Tensor]]
"""By the norms' names, and by those of their buffers."""


def average_plainly(model: nn.Module) -> None:
    """Let a model's norms average plainly over the groups that they have counted. Raises: PlanError for one that cannot."""
    refuse_uncounted(model, "batch_norm.average_last_steps", "Leave it out, or use BatchNorm1d, BatchNorm2d or BatchNorm3d.")
    for norm in _moving(model):
        norm.momentum = None


def refuse_uncounted(model: nn.Module, field: str, hint: str) -> None:
    """Raise PlanError, naming what asks for it, for a norm that has no plain mean over the groups of some steps."""
    for norm in _moving(model):
        if isinstance(norm, _InstanceNorm) or norm.num_batches_tracked is None:
            problem = f"{norm.ghost.name}, a {type(norm).__name__}, does not count its batches, so there is no plain mean over them."
            raise PlanError(field, problem, hint)


class LastSteps:
    """The statistics of a model's norms, which average plainly, over the last steps.

    Args: num_steps: n, at least 1.
    """

    def __init__(self, model: nn.Module, num_steps: int) -> None:
        self._norms = _moving(model)
        self._num_steps = num_steps
        self._earlier: list[Statistics] = []
        """Of the steps before, oldest first, n - 1 at the most."""

    @torch.no_grad()
    def begin_step(self) -> None:
        """Forget what was counted: the next group's statistics take the place of the running ones."""
        for norm in self._norms:
            statistics_of(norm)[COUNT].zero_()

    @torch.no_grad()
    def end_step(self) -> None:
        """Put the mean over the last steps in the place of that over the step that has ended."""
        if self._num_steps == 1:
            return
        steps = [*self._earlier, {norm.ghost.name: copied_statistics(norm) for norm in self._norms}]
        for norm in self._norms:
            of_steps = [step[norm.ghost.name] for step in steps]
            counts = torch.stack([statistics[COUNT] for statistics in of_steps])
            for name, statistic in statistics_of(norm).items():
                values = torch.stack([statistics[name] for statistics in of_steps])
                if name == COUNT:
                    statistic.copy_(values.sum())
                else:  # a norm that no step ran keeps what it had
                    mean = torch.tensordot(counts.to(values.dtype), values, 1) / counts.sum()
                    statistic.copy_(torch.where(counts.sum() > 0, mean, statistic))
        self._earlier = steps[-(self._num_steps - 1) :]

    def state_dict(self) -> list[Statistics]:
        """The statistics of the steps before, oldest first."""
        return self._earlier

    def load_state_dict(self, saved: list[Statistics]) -> None:
        """Take over what `state_dict` gave."""
        devices = {norm.ghost.name: statistics_of(norm)[COUNT].device for norm in self._norms}
        self._earlier = [{name: {key: value.to(devices[name]) for key, value in step[name].items()} for name in devices} for step in saved]


def _moving(model: nn.Module) -> list[GhostNorm]:
    return [norm for norm in ghost_norms(model) if norm.moves_statistics]
