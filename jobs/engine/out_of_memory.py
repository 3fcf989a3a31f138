"""Host memory that is kept from step to step, and memory that runs out: telling it from other errors, making room for another try."""

import ctypes
import gc
import os
from collections.abc import Sequence

import torch

from largebatch.jobs.errors import FaultError
from largebatch.jobs.plan.step_plan import StepPlan

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers for `mallopt`, from its malloc.h."""
KEPT = 2**30
"""Bytes of free memory, at most, that the C library holds on to."""
LARGEST_KEPT = 2**28
"""Bytes of a block, at most, that is kept when it is freed: as much as a micro-batch found by "auto" leaves for its backward pass in all."""
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""By these a person has told glibc what to keep."""


def keep_host_memory() -> None:
    """Have the C library keep what a step frees for the next step, which asks for the same again.

    glibc gives large blocks back to the system as soon as they are free, and gets them anew page by page: 12,000 to 30,000 faults a
    step of F1 at a batch of 8,192, 3 to 7 % of its time. The most that a process holds stays what it was. Other C libraries have no such call.
    """
    if any(name in os.environ for name in SETTINGS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # Either alone would switch off glibc's own adapting of the other.
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT)


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
