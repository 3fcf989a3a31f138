"""Memory that runs out: telling it from other errors, making room for another try."""

import gc
from collections.abc import Sequence

import torch

from largebatch.jobs.errors import FaultError
from largebatch.jobs.plan.step_plan import StepPlan


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the allocator's, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def make_room() -> None:
    """Let go of what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller_micro_batch(micro_batch_size: int, step: StepPlan, by_samples: Sequence[str]) -> int:
    """Half a micro-batch that did not fit, in whole batch-norm groups, once there is room for another try.

    Args: by_samples: what of the model depends on how a step is split.
    Raises: FaultError if there is no smaller one, or none may be.
    """
    size = min(micro_batch_size, step.largest_share)
    if by_samples:
        raise FaultError(
            "batch.global_batch_size",
            f"{size} samples do not fit into this device's memory, and a step cannot be split: what becomes of {by_samples[0]} depends on that.",
            "Use a smaller batch, or a model that its forward pass does not change.",
        )
    smaller = max(size // 2 // step.unit, 1) * step.unit
    if smaller >= size:
        raise FaultError(
            "batch.micro_batch_size",
            f"not even {smaller} samples fit into this device's memory.",
            "Use a smaller model, precision bfloat16, or a smaller batch_norm.span.",
        )
    make_room()
    return smaller
