"""Memory that runs out: telling it from other errors, and making room before another try."""

import gc

import torch


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the allocator's, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def make_room() -> None:
    """Let go of what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
