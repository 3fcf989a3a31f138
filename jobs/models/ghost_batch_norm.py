"""Ghost batch normalisation: statistics over an explicit number of samples (Hoffer et al., arXiv:1705.08741).

A global batch forms groups of `span` samples in order; the last holds what is left. Each group is normalised
by its own mean and variance. Micro-batches are cut between groups (`TrainPlan.split`), so the result does not
depend on the micro-batch. The running statistics move once per group, in order:

    running <- (1 - momentum) * running + momentum * statistic of the group
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from jobs.errors import PlanError

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class GhostBatchNorm(nn.Module):
    """Takes the place of a torch batch-norm; same parameters and buffers, the same in evaluation.

    Args:
        norm: the torch module whose parameters and buffers are taken over.
        span: samples per group, at least 2.
    """

    def __init__(self, norm: BatchNorm, span: int) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.eps, self.momentum, self.span = norm.eps, norm.momentum, span

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (n, C, ...) over groups of `span` samples in training, by running statistics otherwise."""
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if len(inputs) <= self.span:
            return self._group(inputs)
        return torch.cat([self._group(group) for group in torch.split(inputs, self.span)])

    def _group(self, group: Tensor) -> Tensor:
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # torch's convention: a plain average over all groups so far
                momentum = 1.0 / float(self.num_batches_tracked)
        return functional.batch_norm(group, self.running_mean, self.running_var, self.weight, self.bias, True, momentum or 0.0, self.eps)

    def extra_repr(self) -> str:
        """For printing."""
        return f"span={self.span}, eps={self.eps}, momentum={self.momentum}"


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any part of the model is a batch-norm."""
    return any(isinstance(module, (_BatchNorm, GhostBatchNorm)) for module in model.modules())


def use_ghost_batch_norm(model: nn.Module, span: int, place: str = "") -> nn.Module:
    """The model with every batch-norm replaced in place (the model itself, if it is one).

    Args: place: the module's name in the whole model.
    Raises: PlanError for a batch-norm that does more, or something else, than torch's three.
    """
    if isinstance(model, _BatchNorm):
        # A subclass that computes what torch's does may be replaced; one with a forward of its own would lose what that does.
        if isinstance(model, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and type(model).forward is _BatchNorm.forward:
            return GhostBatchNorm(model, span)
        raise PlanError(
            "model",
            f"{place or 'the model itself'} is a {type(model).__name__}, a batch-norm of another kind, which cannot take its statistics over"
            " batch_norm.span samples.",
            "Build the model with BatchNorm1d, BatchNorm2d or BatchNorm3d, and what else it does (an activation, say) as a module of its own.",
        )
    for name, child in model.named_children():
        setattr(model, name, use_ghost_batch_norm(child, span, f"{place}.{name}" if place else name))
    return model


def zero_init_residual(model: nn.Module) -> int:
    """Start the last batch-norm of each residual block at zero; returns how many blocks there were.

    Knows torchvision's BasicBlock and Bottleneck (bn2, bn3) and our own blocks (attribute `last_norm`).
    """
    found = 0
    for module in model.modules():
        last: Any = getattr(module, "last_norm", None)
        if last is None and hasattr(module, "downsample"):
            last = getattr(module, "bn3", None) or getattr(module, "bn2", None)
        if isinstance(last, nn.Module) and isinstance(getattr(last, "weight", None), nn.Parameter):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            found += 1
    return found
