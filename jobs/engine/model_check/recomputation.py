"""Tries whether the blocks that run once more in the backward pass leave the same behind as where all is kept."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from largebatch.jobs.engine.gradient.activation_checkpointing import FIELD, blocks_called_by, kept, run_again
from largebatch.jobs.engine.model_check.passes import Passes, difference
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.trees import Tree

NOT_TRIED = "Memory does not hold a pass that keeps everything: whether blocks may run once more was not tried."


def refuse_changed_by_running_again(passes: Passes, samples: Tree) -> list[str]:
    """Pass some samples through, keeping all, and running blocks again: gradient, buffers and weights must be the same.

    Returns: notices.
    Raises: PlanError naming what differs, or saying why blocks cannot run again.
    """
    num_runs = 0

    def counted(function: Callable[..., Any], *values: Any) -> Any:
        nonlocal num_runs
        num_runs += 1
        return run_again(function, *values)

    try:
        with blocks_called_by(passes.model, kept):
            expected = _left_by_a_pass(passes, samples)
        with blocks_called_by(passes.model, counted):
            left = _left_again(passes, samples)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not ran_out_of_memory(error):
            raise
        make_room()
        return [NOT_TRIED]
    finally:
        passes.end()
    if not num_runs:
        raise PlanError(FIELD, "no block runs in training by its own call, so nothing of it could run again.", "Name other modules.")
    for name, tensor in left.items():
        if name not in expected or expected[name].shape != tensor.shape or difference([expected[name]], [tensor]) > passes.rounding:
            raise PlanError(
                FIELD,
                f"{name} is another one where blocks run once more in the backward pass: something in them changes with each run.",
                "Name modules that keep nothing of what passes through them, or leave it out.",
            )
    return []


def _left_again(passes: Passes, samples: Tree) -> dict[str, Tensor]:
    try:
        return _left_by_a_pass(passes, samples)
    except PlanError as error:
        raise PlanError(
            FIELD, f"blocks cannot run once more in the backward pass: {error.problem}", "Name other modules, or leave it out."
        ) from error


def _left_by_a_pass(passes: Passes, samples: Tree) -> dict[str, Tensor]:
    """What a pass in training leaves behind, by its name in a sentence, in host memory: a device may have no room for it twice."""
    gradient = passes.training(samples).gradient
    left = {f"the gradient of {name}": tensor.cpu() for name, tensor in zip(passes.trained_names(), gradient, strict=True)}
    left |= {f"the buffer {name}": buffer.detach().to("cpu", copy=True) for name, buffer in passes.model.named_buffers()}
    return left | {f"the weight {name}": now for name, (_, now) in passes.snapshot.changed_weights().items()}
