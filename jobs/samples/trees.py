"""Trees of tensors: what a batch is, a tuple, list or dict of tensors that have the samples in dimension 0."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.errors import PlanError

Tree = Any
"""A tensor; or a tuple, named tuple, list or dict of trees."""


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for _, inner in _children(tree) for leaf in leaves(inner)]


def named_leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of each tensor, such as ("0", inputs) or ("image.mask", mask)."""
    if isinstance(tree, Tensor):
        yield name, tree
        return
    for key, inner in _children(tree):
        yield from named_leaves(inner, f"{name}.{key}" if name else str(key))


def map_leaves(change: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The tree of `change(tensor, tensors at the same path of the others ...)`."""
    if isinstance(tree, Tensor):
        return change(tree, *others)
    if isinstance(tree, dict):
        return type(tree)((key, map_leaves(change, inner, *(other[key] for other in others))) for key, inner in tree.items())
    pieces = [map_leaves(change, *inner) for inner in zip(tree, *others, strict=True)]
    return type(tree)(*pieces) if hasattr(tree, "_fields") else type(tree)(pieces)


def map_first(change: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with its first tensor changed: the inputs, or the first of them."""
    # By place, for a batch may hold one tensor twice.
    changes: Iterator[Callable[[Tensor], Tensor]] = chain([change], repeat(lambda leaf: leaf))
    return map_leaves(lambda leaf: next(changes)(leaf), tree)


def num_samples(batch: Tree) -> int:
    """The size of dimension 0 of the first tensor; all have the same."""
    return len(leaves(batch)[0])


def rows(batch: Tree, start: int, stop: int) -> Tree:
    """Samples `start` to `stop` of a batch."""
    return map_leaves(lambda leaf: leaf[start:stop], batch)


def cut_sequences(batch: Tree, length: int) -> Tree:
    """Sequences (n, T) cut into shorter ones, in their order: (n * T / length, length). Raises: PlanError for what cannot be cut so."""

    def cut(leaf: Tensor) -> Tensor:
        if leaf.ndim != 2 or leaf.shape[1] % length:
            problem = f"samples of shape {tuple(leaf.shape[1:])} cannot be cut into sequences of {length} tokens."
            raise PlanError("batch.schedule.short_sequences", problem, "Leave it out, or let every part of a sample be one sequence of tokens.")
        return leaf.reshape(-1, length)

    return map_leaves(cut, batch)


def halves(batch: Tree) -> list[Tree]:
    """The samples in two parts, the second the larger by one where their number is odd."""
    size = num_samples(batch)
    return [rows(batch, 0, size // 2), rows(batch, size // 2, size)]


def joined(batches: Sequence[Tree]) -> Tree:
    """The samples of several batches in one."""
    return map_leaves(lambda *pieces: torch.cat(pieces), *batches)


def _children(tree: Tree) -> Iterator[tuple[Any, Tree]]:
    if isinstance(tree, dict):
        return iter(tree.items())
    if isinstance(tree, (tuple, list)):
        return iter(enumerate(tree))
    raise TypeError(f"a {type(tree).__name__} is neither a tensor nor a tuple, list or dict of tensors")


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor holds whole numbers."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def dtype_name(tensor: Tensor) -> str:
    """A tensor's type without torch's name."""
    return str(tensor.dtype).removeprefix("torch.")
