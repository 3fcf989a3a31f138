"""Makes the first pass through a person's own model, for what comes into being only then: lazy layers, and what `forward` makes.

What comes into being is drawn from the run's seed, before the optimizer looks for parameters; what was there stays as it was. What is
made must follow from the samples' shape alone: which samples come first differs with the workers and the micro-batch.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.modes import modes_kept, without_gradient
from largebatch.jobs.models.snapshot import differ, restored
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves
from largebatch.jobs.tasks.outputs import tensors_of

Call = Callable[..., Any]
"""Of a model and a batch."""
NUM_SAMPLES = 2
"""Batch-norm takes no fewer."""
PLAIN = (Tensor, bool, int, float, str, type(None))
"""Attributes in which a module remembers something between passes."""


class _Made(NamedTuple):
    """What a first pass made."""

    tensors: dict[str, Tensor]
    """Parameters and buffers that came into being."""
    moved: set[str]
    """Parameters and buffers that were there and got other values, which were put back."""
    leaves_a_trace: bool
    """Whether anything came into being, or any module's own attribute became another."""
    error: BaseException | None
    """Why a pass failed; the model check tells that in its own words."""


def make_whole(model: nn.Module, build: Callable[[], nn.Module], blank: Tree, seed: int, call: Call) -> nn.Module:
    """The model on the device of `blank`, with everything that it makes when the first samples come.

    Args:
        build: the same model once more, for comparison.
        blank: samples of nothing.
        call: passes them through, as the task does.
    Raises: PlanError for a layer that has no weights even then, or that depends on the samples.
    """
    made = _first_pass(model, blank, seed, call)
    for name, tensor in _tensors(model):
        if is_lazy(tensor):
            reason = f"and the pass failed: {described(made.error)}." if made.error else "and none of them reached it."
            raise PlanError(
                "model", f"{name} takes its shape from the first samples that pass through, {reason}", "Give the layer its sizes, or remove it."
            )
    if made.leaves_a_trace and made.error is None:
        if (other := build()) is not model:
            _refuse_dependent(model, made, other, blank, seed, call)
        _refuse_set_once(model, made, blank, seed, call)
    return model


def _first_pass(model: nn.Module, blank: Tree, seed: int, call: Call) -> _Made:
    """Passes `blank` through in evaluation and in training mode."""
    before = {name for name, tensor in _tensors(model) if not is_lazy(tensor)}
    # Lazy layers draw where they are: on the CPU, so that they are the same whatever the device. Tables that a model keeps
    # outside of its buffers stay where they were made: on the device.
    device = leaves(blank)[0].device
    batch = map_leaves(Tensor.cpu, blank) if len(before) < len(_tensors(model)) else blank
    first_device = leaves(batch)[0].device
    model.to(first_device)
    remembered = _remembered(model)
    error: BaseException | None = None
    moved = set[str]()
    with modes_kept(model):
        # In evaluation first: a lazy batch-norm comes into being there without moving its running statistics.
        for is_training in (False, True):
            with restored(model) as snapshot:
                seed_draws(key(seed, "weights", "first pass"), first_device)
                try:
                    model.train(is_training)
                    with without_gradient():
                        call(model, map_leaves(Tensor.clone, batch))
                except ANYTHING as raised:  # a person's own model may raise anything
                    error = raised
                moved.update(snapshot.changed_weights(), snapshot.changed_buffers())
    made = {name: tensor.detach().clone() for name, tensor in _tensors(model) if name not in before and not is_lazy(tensor)}
    leaves_a_trace = bool(made) or _remembered(model) != remembered
    model.to(device)
    return _Made(made, moved, leaves_a_trace, error)


def _remembered(model: nn.Module) -> list[tuple[str, str, Any]]:
    """The attributes in which modules keep something; of tensors their identity."""
    return [
        (prefix, name, id(value) if isinstance(value, Tensor) else value)
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, PLAIN) and name != "training"
    ]


def _refuse_set_once(model: nn.Module, made: _Made, blank: Tree, seed: int, call: Call) -> None:
    """Raise PlanError for a weight or buffer that the first pass alone sets: the model remembers that it did, and it would never be set again."""
    if once := sorted(made.moved - _first_pass(model, blank, seed, call).moved):
        raise PlanError(
            "model",
            f"its forward pass sets {once[0]} when the first samples come, and never again: another micro-batch or number of workers would begin"
            " with others.",
            "Set it when the model is built.",
        )


def _refuse_dependent(model: nn.Module, made: _Made, other: nn.Module, blank: Tree, seed: int, call: Call) -> None:
    """Raise PlanError if other samples would have made another model of it."""
    samples = map_leaves(_others, blank)
    again = _first_pass(other, samples, seed, call)
    if again.error is not None:
        return
    differing = [name for name, tensor in made.tensors.items() if name not in again.tensors or differ(tensor, again.tensors[name])]
    with suppress(*ANYTHING):  # what the model check will meet, and tell
        outputs, other_outputs = _evaluated(model, samples, call), _evaluated(other, samples, call)
        if differ(outputs, other_outputs) and not differ(outputs, _evaluated(model, samples, call)):
            differing.append(f"something in {type(model).__name__}")
    if differing:
        raise PlanError(
            "model",
            f"{differing[0]} is made when the first samples come, and depends on which they are, or on chance: another micro-batch or"
            " number of workers would make another.",
            "Make it from the samples' shape alone, or when the model is built.",
        )


def _others(blank: Tensor) -> Tensor:
    """Other samples than blank ones: random numbers, or ones."""
    if blank.is_floating_point():
        return torch.randn(blank.shape, generator=torch.Generator().manual_seed(1)).to(blank)
    return torch.ones_like(blank)


def _evaluated(model: nn.Module, batch: Tree, call: Call) -> Tensor:
    """All that the model gives in evaluation."""
    given: list[Tensor] = []

    def recorded(*inputs: Any, **named: Any) -> Any:
        output = model(*inputs, **named)
        given.extend(tensor.reshape(-1) for tensor in tensors_of(output))
        return output

    with modes_kept(model), restored(model), without_gradient():
        model.eval()
        call(recorded, map_leaves(Tensor.clone, batch))
    return torch.cat(given)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
