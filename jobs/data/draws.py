"""Random draws that depend on what they are for, never on how many were made before.

Order, augmentation and dropout are keyed by (seed, purpose, epoch, sample index), so the same sample gets
the same treatment under any micro-batch, any world size and after any restart.
"""

import hashlib

import torch
from torch import Tensor


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
    z = indices * _signed(0x9E3779B97F4A7C15) + draw_key
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).to(torch.float32) * 2.0**-24


def integers(draw_key: int, indices: Tensor, low: int, high: int) -> Tensor:
    """One whole number in [low, high] for each sample index: (n,), int64."""
    return (uniform(draw_key, indices) * (high - low + 1)).floor().to(torch.int64) + low


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift; torch's own keeps the sign of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
