"""Makes random draws that depend on what they are for, never on how many were made before.

Order and augmentation are keyed by (seed, purpose, epoch, sample index), dropout by (seed, epoch, place in the epoch's
order) and layer, so the same sample gets the same treatment under any micro-batch, any world size and after any restart.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

GOLDEN_RATIO = 0x9E3779B97F4A7C15 - (1 << 64)
"""As int64, like all of splitmix64's constants here."""


def key(*parts: int | str) -> int:
    """A 63-bit key from what a draw is for; the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def seed_draws(draw_key: int, device: torch.device) -> None:
    """Seed torch's default generators for draws on the CPU and on `device`.

    torch.manual_seed would do, but without a GPU it keeps a stack trace of every call: a tenth of a millisecond each.
    """
    torch.default_generator.manual_seed(draw_key)
    if device.type == "cuda":
        torch.cuda.manual_seed(draw_key)


def seed_all_draws(draw_key: int) -> None:
    """Seed Python's, numpy's and torch's default generators for draws on the CPU, which a person's own code may use."""
    random.seed(draw_key)
    np.random.seed(draw_key % 2**32)
    seed_draws(draw_key, torch.device("cpu"))


@contextmanager
def own_draws() -> Iterator[None]:
    """Context whose draws on the CPU, by any of these generators, change no others."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def sample_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """The order in which an epoch visits the training samples.

    Returns: permutation of 0 ... num_samples - 1, (num_samples,), int64, on the CPU.
    """
    generator = torch.Generator().manual_seed(key(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


def uniform(draw_key: int, indices: Tensor) -> Tensor:
    """One uniform draw in [0, 1) for each sample index, the same on every device.

    The finalizer of splitmix64 (Steele et al., OOPSLA 2014) over key + index * golden ratio.

    Args: indices: (n,), int64.
    Returns: (n,), float32, multiples of 2^-24.
    """
    return _shift_right(bits(draw_key, indices), 40).to(torch.float32) * 2.0**-24


def bits(draw_key: int, indices: Tensor) -> Tensor:
    """64 random bits for each sample index, the same on every device: what `uniform` takes its 24 from.

    Args: indices: (n,), int64.
    Returns: (n,), int64.
    """
    return _mixed(indices * GOLDEN_RATIO + draw_key)


def streams(states: Tensor, draw_key: int, length: int) -> Tensor:
    """`length` words of 64 random bits for each state: splitmix64's sequence from state + key on.

    Args: states: (n,), int64, themselves random (`bits`), so that no two samples' sequences run side by side.
    Returns: (n, length), int64.
    """
    steps = torch.arange(length, device=states.device) * GOLDEN_RATIO + draw_key
    return _mixed(states[:, None] + steps)


def integers(draw_key: int, indices: Tensor, low: int, high: int) -> Tensor:
    """One whole number in [low, high] for each sample index: (n,), int64."""
    return (uniform(draw_key, indices) * (high - low + 1)).floor().to(torch.int64) + low


def _mixed(z: Tensor) -> Tensor:
    """splitmix64's finalizer; in place, for these are many numbers."""
    z ^= _shift_right(z, 30)
    z *= 0xBF58476D1CE4E5B9 - (1 << 64)
    z ^= _shift_right(z, 27)
    z *= 0x94D049BB133111EB - (1 << 64)
    z ^= _shift_right(z, 31)
    return z


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift; torch's own keeps the sign of int64."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
