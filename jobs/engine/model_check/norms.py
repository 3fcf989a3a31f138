"""Tries a model's norms on a few samples: whether a group of samples has statistics of its own.

Every split of a batch takes that for granted. docs/decisions/020 says what is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.jobs.engine.model_check.passes import before_each_run
from largebatch.jobs.engine.model_errors import errors_in_words
from largebatch.jobs.engine.warm_up import untouched
from largebatch.jobs.models.modes import without_gradient
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, copied_statistics, forward_pass_of, ghost_norms, refusal, statistics_of
from largebatch.jobs.models.sample_dropout import sample_dropouts, set_dropout_keys
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves, num_samples, rows

NUM_SAMPLES, SPAN = 4, 2
TOLERANCE = 0.02
"""Of how far statistics moved: far above the rounding of any precision, far below what other rows make of it."""
ROUNDING = 1e-5
"""Of the largest number."""

Statistics = dict[str, Tensor]
Call = Callable[[nn.Module, Tree], object]
"""Passes a batch through a model, as the task does."""


@without_gradient()
def refuse_mixed_groups(model: nn.Module, batch: Tree, call: Call, once_a_step: Sequence[str] = ()) -> None:
    """Pass the first four samples through at once, and two by two, in groups of two. The model is left as it was.

    Args: once_a_step: names of buffers that are the same for all passes of a step, as a count of them.
    Raises: PlanError for the first norm whose statistics, or moves of them, depend on that.
    """
    norms = {norm.ghost.number: norm for norm in ghost_norms(model) if norm.moves_statistics}
    if not norms or num_samples(batch) < NUM_SAMPLES:
        return
    forward_pass = forward_pass_of(model)
    span, forward_pass.span = forward_pass.span, SPAN
    try:
        with errors_in_words(batch, "training"):
            _refuse_own_ways(model, norms, batch, call)
            before = {number: copied_statistics(norm) for number, norm in norms.items()}
            at_once, halves = (_moved(model, norms, batch, call, once_a_step, size) for size in (NUM_SAMPLES, SPAN))
            differing = [run for run in at_once if _differ(at_once[run], halves.get(run, {}), before[run[0]] if run[1] == 0 else {})]
            if not differing:
                return
            other = _moved(model, norms, batch, call, once_a_step, NUM_SAMPLES, seed=1)
            for run in differing:
                # What is drawn at random depends on the split, as docs/spec.md says: there nothing can be told.
                if not _differ(at_once[run], other.get(run, {}), {}):
                    raise refusal(norms[run[0]], "takes together rows of samples that do not belong together")
    finally:
        forward_pass.span = span


def _moved(model: nn.Module, norms: dict[int, GhostNorm], batch: Tree, call: Call, once_a_step: Sequence[str], size: int,
           seed: int = 0) -> dict[tuple[int, int], Statistics]:  # fmt: skip
    """The statistics of each run of each norm after passes of so many samples."""
    forward_pass, dropouts, device = forward_pass_of(model), sample_dropouts(model), leaves(batch)[0].device
    held = {name: model.get_buffer(name).clone() for name in once_a_step}
    with untouched(model, size):
        for start in range(0, NUM_SAMPLES, size):
            for name, value in held.items():
                model.get_buffer(name).copy_(value)
            set_dropout_keys(dropouts, 0, Slice(0, start, start + size), device)
            seed_draws(key("norms", seed), device)
            forward_pass.begin(size)
            call(model, map_leaves(Tensor.clone, rows(batch, start, start + size)))
        own = {(number, 0): copied_statistics(norm) for number, norm in norms.items()}
        return own | {run: statistics for run, statistics in forward_pass.apart.items() if run[0] in norms}


def _differ(statistics: Statistics, others: Statistics, before: Statistics) -> bool:
    for name, value in statistics.items():
        if name not in others:
            return True
        moved = (value - before[name] if name in before else value).abs().max()
        if bool((value - others[name]).abs().max() > TOLERANCE * moved + ROUNDING * value.abs().max()):
            return True
    return False


def _refuse_own_ways(model: nn.Module, norms: dict[int, GhostNorm], batch: Tree, call: Call) -> None:
    """Raises: PlanError for a class with a forward of its own that moves statistics, or uses them, otherwise than torch's."""
    torchs: tuple[Any, ...] = (_BatchNorm.forward, _InstanceNorm.forward)
    own_norms = [norm for norm in norms.values() if type(norm).own_forward not in torchs]
    if not own_norms:
        return
    last_rows: dict[Any, Tensor] = {}
    with before_each_run(own_norms, lambda norm, arguments: last_rows.update({norm: arguments[0].clone()})), untouched(model, SPAN):
        call(model, map_leaves(Tensor.clone, rows(batch, 0, SPAN)))
    with untouched(model, SPAN):
        for norm, inputs in last_rows.items():
            _refuse_own_way(norm, inputs)


def _refuse_own_way(norm: GhostNorm, rows: Tensor) -> None:
    outputs, ends = [], []
    for begin in (0.0, 1.0):
        for name, value in statistics_of(norm).items():
            value.fill_(3 if name == "num_batches_tracked" else begin)
        seed_draws(key("norms"), rows.device)
        outputs.append(norm.own_forward(rows.clone()))
        ends.append(copied_statistics(norm))
    if not isinstance(outputs[0], Tensor) or outputs[0].shape[:1] != rows.shape[:1]:
        raise refusal(norm, "does not give a row for each row")
    if not torch.allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-4):
        raise refusal(norm, "normalises by its running statistics in training, too")
    kept = 0.75 if norm.momentum is None else 1.0 - norm.momentum
    for name, value in ends[0].items():
        is_count = name == "num_batches_tracked"
        moved = value - 3 if is_count else ends[1][name] - value
        if not torch.allclose(moved.double(), torch.full_like(moved, 1.0 if is_count else kept, dtype=torch.float64), rtol=1e-3, atol=1e-3):
            raise refusal(norm, f"moves its {name} in a way of its own")
