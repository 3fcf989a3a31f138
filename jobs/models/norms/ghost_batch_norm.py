"""Ghost batch normalisation: statistics over an explicit number of samples (Hoffer et al., arXiv:1705.08741).

A global batch forms groups of `span` samples in order; the last holds what is left. Each group is normalised
by its own mean and variance. Micro-batches are cut between groups (`TrainPlan.split`), so the result does not
depend on the micro-batch. The running statistics move once per group, in order:

    running <- (1 - momentum) * running + momentum * statistic of the group

A norm keeps its class, and that class's own forward runs group by group: docs/decisions/020 says why and how.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.forward_pass import ForwardPass
from largebatch.jobs.models.sample_dropout import sample_dropouts

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Ghost(NamedTuple):
    """The forward pass and the name of a ghost norm, which its own class does not know."""

    forward_pass: ForwardPass
    """The forward pass that the model's norms share."""
    number: int
    """The norm's number among them."""
    name: str
    """The norm's name in the model."""


class GhostNorm(nn.Module):
    """Base that a norm gets beside its own class: its forward takes `span` samples at a time.

    Dimension 0 of its inputs must be the samples, or the samples times something in their order (n * steps).
    """

    ghost: Ghost
    track_running_stats: bool
    momentum: float | None
    eps: float
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def own_forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the class computes, of one group; `ghost_class` sets it."""
        raise NotImplementedError

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Normalises group by group; all at once where running statistics are used."""
        if not self.training and self.running_mean is not None:
            return self.own_forward(input, *args, **kwargs)
        forward_pass, number = self.ghost.forward_pass, self.ghost.number
        groups = self._ghost_groups(input)
        if len(groups) > 1 and (args or kwargs):
            raise refusal(self, "is called with more than its input, which cannot be cut into groups")
        if forward_pass.num_samples is None or not self.moves_statistics:
            return self._ghost_outputs(groups, *args, **kwargs)
        run = None if forward_pass.is_over else forward_pass.note(number, len(groups))
        if run == (number, 0):
            return self._ghost_outputs(groups, *args, **kwargs)
        with self._ghost_statistics(forward_pass.apart.setdefault(run, {}) if run else {}):
            return self._ghost_outputs(groups, *args, **kwargs)

    @property
    def moves_statistics(self) -> bool:
        """Whether the next inputs move running statistics."""
        return self.training and self.track_running_stats and self.running_mean is not None

    def _ghost_groups(self, rows: Tensor) -> Sequence[Tensor]:
        span, num_samples = self.ghost.forward_pass.span, self.ghost.forward_pass.num_samples
        if span is None:
            raise refusal(self, "was in evaluation mode when the model was built, and trains now")
        num_rows = rows.shape[0]
        if num_samples is None:
            num_samples = num_rows
        if num_samples <= span:
            return [rows]
        per_sample, rest = divmod(num_rows, num_samples)
        if rest:
            raise refusal(self, f"gets {num_rows} rows of {num_samples} samples, which are not as many of each")
        groups: Sequence[Tensor] = torch.split(rows, span * per_sample)
        if num_samples % span == 1:  # a single sample has no variance; no plan leaves one in training
            return [*groups[:-2], torch.cat([*groups[-2:]])]
        return groups

    def _ghost_outputs(self, groups: Sequence[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if len(groups) == 1:
            return self.own_forward(groups[0], *args, **kwargs)
        return torch.cat([self.own_forward(group) for group in groups])

    @contextmanager
    def _ghost_statistics(self, apart: dict[str, Tensor]) -> Iterator[None]:
        """Let other running statistics move in place of the norm's own: those in `apart`, from zero where it is empty."""
        own = statistics_of(self)
        if not apart:
            apart.update({name: torch.zeros_like(value) for name, value in own.items()})
        try:
            for name, value in apart.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in own.items():
                setattr(self, name, value)

    def extra_repr(self) -> str:
        """For printing."""
        return f"{super().extra_repr()}, span={self.ghost.forward_pass.span}"


def statistics_of(norm: GhostNorm) -> dict[str, Tensor]:
    """The running statistics that a norm keeps, by name."""
    return {name: value for name in STATISTICS if (value := getattr(norm, name)) is not None}


def copied_statistics(norm: GhostNorm) -> dict[str, Tensor]:
    """The same as they are now."""
    return {name: value.clone() for name, value in statistics_of(norm).items()}


def refusal(norm: GhostNorm, problem: str) -> PlanError:
    """The error of a norm that cannot take its statistics over `span` samples."""
    return PlanError(
        "model",
        f"{norm.ghost.name}, a {type(norm).__name__}, {problem}: its statistics cannot be taken over batch_norm.span samples.",
        "Give it inputs whose first dimension is the samples, or the samples times something in their order, or use another norm.",
    )


class Settings(NamedTuple):
    """What a norm is told beside its inputs."""

    momentum: float | None
    eps: float
    training: bool


def settings_of(norm: GhostNorm) -> Settings:
    """A norm's settings at this moment."""
    return Settings(norm.momentum, norm.eps, norm.training)


def refuse_change(norm: GhostNorm, before: Settings) -> None:
    """Raise PlanError if a norm has other settings than before: the forward pass has changed them, and no checkpoint holds them."""
    for name, *values in zip(Settings._fields, before, settings_of(norm), strict=True):
        if values[0] != values[1]:
            was, now = (f"{value:.4g}" if type(value) is float else value for value in values)
            raise PlanError(
                "model",
                f"the forward pass changes {norm.ghost.name}.{name} from {was} to {now}:"
                " the result would depend on how many passes there were, which micro-batches, workers and a resume change.",
                "Leave the settings of norms as they are while the model trains; freeze a norm by eval() where the model is built.",
            )


def _is_norm(module: nn.Module) -> bool:
    """Whether statistics of several samples matter to a module: an instance-norm takes none, but may keep running ones."""
    if isinstance(module, _InstanceNorm):
        return module.running_mean is not None
    return isinstance(module, _BatchNorm)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any norm of a model, in the mode in which it is, takes statistics over samples; frozen ones do not."""
    return any(_is_norm(module) and (module.training or module.running_mean is None) for module in model.modules())


def use_ghost_batch_norm(model: nn.Module, span: int | None) -> nn.Module:
    """The model, its norms made ghost norms in place.

    Raises: PlanError for a norm that is no such thing when it takes some samples at a time.
    """
    shared = ForwardPass(span)
    names = {module: name for name, module in model.named_modules() if _is_norm(module)}
    for number, (module, name) in enumerate(names.items()):
        _refuse_other_kinds(module, name or "the model itself")
        kind: Any = type(module)
        module.__class__ = ghost_class(kind)
        cast(GhostNorm, module).ghost = Ghost(shared, number, name or "the model itself")
    return model


def _refuse_other_kinds(module: nn.Module, name: str) -> None:
    kind = type(module)
    problem = None
    if isinstance(module, nn.SyncBatchNorm) and kind.forward is not nn.SyncBatchNorm.forward:
        problem = "synchronises its statistics between processes in a way of its own"
    elif isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        problem = "has no size yet"
    elif any(dropout.p for dropout in sample_dropouts(module)):
        problem = "has dropout inside"
    if problem:
        raise PlanError(
            "model",
            f"{name} is a {kind.__name__}, a batch-norm of another kind: it {problem}, and cannot take its statistics over batch_norm.span samples.",
            "Build the model with BatchNorm1d, BatchNorm2d or BatchNorm3d, and what else it does as a module of its own.",
        )


@cache
def ghost_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The ghost norm that is also a `kind`. A synchronised batch-norm computes what a plain one does: `span` says over which samples."""
    if issubclass(kind, GhostNorm):
        return kind
    own_forward = _BatchNorm.forward if kind.forward is nn.SyncBatchNorm.forward else kind.forward
    names = {"own_forward": own_forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (GhostNorm, kind), names)


def ghost_norms(model: nn.Module) -> list[GhostNorm]:
    """The ghost norms of a model, in its order."""
    return [module for module in model.modules() if isinstance(module, GhostNorm)]


def forward_pass_of(model: nn.Module) -> ForwardPass:
    """The forward pass that a model's ghost norms share; one that nothing reads where there are none."""
    return next((norm.ghost.forward_pass for norm in ghost_norms(model)), ForwardPass(None))


def evaluation_unit(model: nn.Module) -> int:
    """Samples that evaluation must pass forward together: `span` where some norm keeps no running statistics, else 1."""
    return max((norm.ghost.forward_pass.span or 1 for norm in ghost_norms(model) if norm.running_mean is None), default=1)
