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

from largebatch.jobs.data.keyed_random import key, seed_draws
from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.modes import modes_kept, without_gradient
from largebatch.jobs.models.snapshot import differ, restored

NUM_SAMPLES = 2
"""Batch-norm takes no fewer."""
PLAIN = (Tensor, bool, int, float, str, type(None))
"""Attributes in which a module remembers something between passes."""


class _Made(NamedTuple):
    """What a first pass made."""

    tensors: dict[str, Tensor]
    """Parameters and buffers that came into being."""
    leaves_a_trace: bool
    """Whether anything came into being, or any module's own attribute became another."""
    error: BaseException | None
    """Why a pass failed; the model check tells that in its own words."""


def make_whole(model: nn.Module, build: Callable[[], nn.Module], blank: Tensor, seed: int) -> nn.Module:
    """The model on the device of `blank`, with everything that it makes when the first samples come.

    Args:
        build: the same model once more, for comparison.
        blank: samples of nothing.
    Raises: PlanError for a layer that has no weights even then, or that depends on the samples.
    """
    made = _first_pass(model, blank, seed)
    for name, tensor in _tensors(model):
        if is_lazy(tensor):
            reason = f"and the pass failed: {described(made.error)}." if made.error else "and none of them reached it."
            raise PlanError(
                "model", f"{name} takes its shape from the first samples that pass through, {reason}", "Give the layer its sizes, or remove it."
            )
    if made.leaves_a_trace and made.error is None and (other := build()) is not model:
        _refuse_dependent(model, made, other, blank, seed)
    return model


def _first_pass(model: nn.Module, blank: Tensor, seed: int) -> _Made:
    """Passes `blank` through in evaluation and in training mode."""
    before = {name for name, tensor in _tensors(model) if not is_lazy(tensor)}
    # Lazy layers draw where they are: on the CPU, so that they are the same whatever the device. Tables that a model keeps
    # outside of its buffers stay where they were made: on the device.
    inputs = blank.cpu() if len(before) < len(_tensors(model)) else blank
    model.to(inputs.device)
    remembered = _remembered(model)
    error: BaseException | None = None
    with modes_kept(model):
        # In evaluation first: a lazy batch-norm comes into being there without moving its running statistics.
        for is_training in (False, True):
            with restored(model):
                seed_draws(key(seed, "weights", "first pass"), inputs.device)
                try:
                    model.train(is_training)
                    with without_gradient():
                        model(inputs.clone())
                except ANYTHING as raised:  # a person's own model may raise anything
                    error = raised
    made = {name: tensor.detach().clone() for name, tensor in _tensors(model) if name not in before and not is_lazy(tensor)}
    leaves_a_trace = bool(made) or _remembered(model) != remembered
    model.to(blank.device)
    return _Made(made, leaves_a_trace, error)


def _remembered(model: nn.Module) -> list[tuple[str, str, Any]]:
    """The attributes in which modules keep something; of tensors their identity."""
    return [
        (prefix, name, id(value) if isinstance(value, Tensor) else value)
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, PLAIN) and name != "training"
    ]


def _refuse_dependent(model: nn.Module, made: _Made, other: nn.Module, blank: Tensor, seed: int) -> None:
    """Raise PlanError if other samples would have made another model of it."""
    samples = torch.ones_like(blank)
    if blank.is_floating_point():
        samples = torch.randn(blank.shape, generator=torch.Generator().manual_seed(1)).to(blank)
    again = _first_pass(other, samples, seed)
    if again.error is not None:
        return
    differing = [name for name, tensor in made.tensors.items() if name not in again.tensors or differ(tensor, again.tensors[name])]
    with suppress(*ANYTHING):  # what the model check will meet, and tell
        logits, other_logits = _evaluated(model, samples), _evaluated(other, samples)
        if differ(logits, other_logits) and not differ(logits, _evaluated(model, samples)):
            differing.append(f"something in {type(model).__name__}")
    if differing:
        raise PlanError(
            "model",
            f"{differing[0]} is made when the first samples come, and depends on which they are, or on chance: another micro-batch or"
            " number of workers would make another.",
            "Make it from the samples' shape alone, or when the model is built.",
        )


def _evaluated(model: nn.Module, inputs: Tensor) -> Tensor:
    with modes_kept(model), restored(model), without_gradient():
        model.eval()
        logits: Tensor = model(inputs.clone())
    return logits


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
