"""The mean gradient of one global batch: weigh, read, backward, reduce, agree.

Losses are summed over samples and divided once by the whole step's weight, over all micro-batches and all ranks, so k micro-batches,
even or uneven, on one rank or many, give the gradient of the one batch. Where each sample weighs 1, that weight is known from the plan;
where a task weighs samples otherwise, by the tokens that count for one, all micro-batches are read and weighed first.
The device is asked for numbers once per step.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.gradient.dual_noise import DualNoise
from largebatch.jobs.engine.gradient.norm_gradients import NormNoise, layer_norms
from largebatch.jobs.engine.gradient.objective import Objective, SummedLoss
from largebatch.jobs.engine.gradient.precision import in_precision
from largebatch.jobs.engine.gradient.share import Share
from largebatch.jobs.engine.gradient.two_pass import embedding_objective
from largebatch.jobs.engine.noise_scale import SampleSums
from largebatch.jobs.engine.ranks.all_reduce import GradientSum
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.dual_norm import DualNorm
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.contrastive import CoupledTask


class Measured(NamedTuple):
    """What one accumulated gradient tells; numbers on the host."""

    loss: float
    squared_norm: float
    """|G_B|^2 of the whole batch's mean gradient; of a local step, the mean over ranks of theirs."""
    own_squared_norm: float
    """The same of what is in `.grad`: another number only in a local step."""
    mean_squared_norm: float
    """Squared gradient norms of the pieces, weighted by what they weigh."""
    num_pieces: int
    """Micro-batches of one process, or ranks, that weigh something; with one there is no noise to be seen."""
    norms: SampleSums | None = None
    """Of the norms' parameters; None where the step does not measure them."""
    dual_norms: tuple[float, float] | None = None
    """(|G_B|_*, |D|_*) in the dual of the optimizer's own norm, D the weighted difference of the batch's halves; None where it is not measured."""

    @property
    def is_finite(self) -> bool:
        """Whether weights may be moved by it."""
        return math.isfinite(self.loss) and math.isfinite(self.squared_norm)


def accumulate(state: TrainState, spec: TrainSpec, step: StepPlan, batches: Batches) -> Measured | None:
    """Leave the mean gradient over all samples of a step, on all ranks, in `.grad`, and measure it.

    In a local step, the mean is over this rank's share.
    Returns: None if memory ran out on any rank.
    Raises: LargebatchError, the same on every rank, if something is wrong with any rank's samples.
    """
    share = Share(state, step, batches)
    state.buffers.begin_step()
    share.weigh()
    noise = _Noise.of(share, spec.optimizer)
    objective = _objective(share, spec.precision, measures=noise.norms is not None or noise.dual is not None)
    with state.all_reduce.step(step, share.total_weight, len(share.micro_batches)) as gradient_sum, share.noting():
        for micro_batch, weight in zip(share.micro_batches, share.weights, strict=True) if share.is_sound else ():
            with gradient_sum.micro_batch(weight):
                _backward(share, objective, noise, micro_batch)
        state.buffers.refuse_changed_settings()
    measured = _agree(share, gradient_sum, _own_sums(share, objective, noise, gradient_sum))
    if noise.dual is None or measured is None or not measured.is_finite:
        return measured
    return measured._replace(dual_norms=noise.dual.norms())


class _Noise(NamedTuple):
    """What a step measures besides, as the gradients of its passes arrive; None: not in this step."""

    norms: NormNoise | None
    dual: DualNoise | None

    @classmethod
    def of(cls, share: Share, optimizer: OptimizerConfig) -> "_Noise":
        """The step's. Every rank makes one, at the same time. Args: share: with its weights."""
        state, step = share.state, share.step
        norms = NormNoise(layer_norms(state.model), share.total_weight) if step.measures_norms else None
        dual = DualNoise(DualNorm(state.optimizer, optimizer.dual_norm), share) if step.measures_dual else None
        return cls(norms, dual)

    def measuring(self, share: Share, batch: Tree, micro_batch: Slice) -> AbstractContextManager[None]:
        """A context for one micro-batch's forward and backward pass; its samples are weighed at once, before anything is drawn for the pass."""
        norms = self.norms.micro_batch(share.sample_weights(batch, micro_batch)) if self.norms else None
        dual = self.dual.micro_batch(micro_batch) if self.dual else None
        return _both(norms, dual) if norms and dual else norms or dual or nullcontext()


@contextmanager
def _both(first: AbstractContextManager[None], second: AbstractContextManager[None]) -> Iterator[None]:
    with first, second:
        yield


def _objective(share: Share, precision: str, measures: bool) -> Objective:
    """The step's, on this rank; of a loss that couples samples which are split, after a first pass of them.

    Args: measures: whether something besides the gradient is taken from each micro-batch's passes.
    """
    state = share.state
    forward = in_precision(state.forward, precision, state.ranks.device)
    objective = None
    if isinstance(state.task, CoupledTask) and not share.is_whole_batch:
        objective = embedding_objective(state.task, share, forward, keeps_first=not measures)
    return objective or SummedLoss(state.task, forward, share.total_weight, state.ranks.device)


def _backward(share: Share, objective: Objective, noise: _Noise, micro_batch: Slice) -> None:
    """Pass a micro-batch forward, where it was not yet, and backward: its part of the step's gradient is added to `.grad`."""
    beginning = objective.of_passed(micro_batch)
    if beginning is not None:
        with share.passing(micro_batch, goes_on=True):
            beginning.backward()  # type: ignore[no-untyped-call]
        return
    batch = share.read(micro_batch)
    measuring = noise.measuring(share, batch, micro_batch)
    with share.passing(micro_batch), measuring:
        beginning = objective.of(batch, micro_batch)
        share.state.buffers.forward_pass.end()
        beginning.backward()  # type: ignore[no-untyped-call]


def _own_sums(share: Share, objective: Objective, noise: _Noise, gradient_sum: GradientSum) -> torch.Tensor:
    """Sum up this rank's part: losses, squared norm, part of the pieces' squared norms, and what `NormNoise` sums; zeros after an error."""
    squared_norm, of_norms = torch.zeros_like(objective.loss_sum), objective.loss_sum.new_zeros(3) if noise.norms else None
    if share.is_sound:
        with share.noting():
            squared_norm = gradient_sum.squared_norm()
            of_norms = noise.norms.sums() if noise.norms else None
    own = torch.stack([objective.loss_sum, squared_norm, gradient_sum.mean_squared_norm])
    return own if of_norms is None else torch.cat([own, of_norms])


def _agree(share: Share, gradient_sum: GradientSum, own: torch.Tensor) -> Measured | None:
    """Add up what the ranks have to tell: all learn the same numbers here, before any of them acts on its own.

    Args: own: see `_own_sums`.
    """
    ranks, own_weight = share.state.ranks, sum(share.weights)
    if ranks.world_size == 1:
        loss_sum, squared_norm, mean_squared_norm, *of_norms = own.tolist()
        own_squared_norm, num_run_out, num_errors, weight, reached = squared_norm, share.has_run_out, share.error is not None, own_weight, []
        num_pieces = sum(weight > 0 for weight in share.weights)
    else:
        told = torch.tensor([share.has_run_out, share.error is not None, own_weight, own_weight > 0], dtype=torch.float64, device=ranks.device)
        summed = ranks.sum(torch.cat([own, told, gradient_sum.reached])).tolist()
        own_squared_norm = float(own[1])
        loss_sum, squared_norm, mean_squared_norm, *of_norms = summed[: len(own)]
        num_run_out, num_errors, weight, num_pieces, *reached = summed[len(own) :]
    if num_errors:
        ranks.raise_first(share.error)
    if num_run_out:
        return None
    gradient_sum.leave_out(reached)
    norms = SampleSums(of_norms[0], of_norms[1], of_norms[2] / ranks.world_size) if of_norms else None
    return Measured(loss_sum / weight, squared_norm / ranks.world_size, own_squared_norm, mean_squared_norm, int(num_pieces), norms)
