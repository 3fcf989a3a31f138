"""Runs the blocks of a model once more in the backward pass, in place of keeping what they computed (Chen et al., arXiv:1604.06174).

A block keeps its class, its place and the names of its parameters: its own forward runs under torch's public checkpoint, in training and
where a gradient is asked for. That sets torch's generators back for the second run, so dropout draws what it drew; norms know from the engine
that the forward pass is over, and move no statistics again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from largebatch.jobs.errors import SpecError, nearest

FIELD = "model.activation_checkpointing"
MOST_NAMES = 20
"""How many names a sentence lists."""
CONTAINERS = (nn.Sequential, nn.ModuleList)

Call = Callable[..., Any]
"""Calls the function that it gets with the values behind it."""


def kept(function: Callable[..., Any], *values: Any) -> Any:
    """A `Call` that keeps what is computed, as without checkpointing."""
    return function(*values)


def run_again(function: Callable[..., Any], *values: Any) -> Any:
    """A `Call` that keeps the values alone, and runs the function once more in the backward pass."""
    return checkpoint(function, *values, use_reentrant=False)


class Block(nn.Module):
    """Base that a block gets beside its own class."""

    checkpointing_call: Call = staticmethod(run_again)
    """How it is called; see `blocks_called_by`."""


@cache
def block_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The block that is also a `kind`."""

    def forward(self: Block, *inputs: Any, **named: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *inputs, **named)

        def own_forward(*values: Any) -> Any:
            return kind.forward(self, *values[: len(inputs)], **dict(zip(named, values[len(inputs) :], strict=True)))

        # By place, all of them: by these torch learns of which devices' generators it must keep the state.
        return self.checkpointing_call(own_forward, *inputs, *named.values())

    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Block, kind), names)


def use_activation_checkpointing(model: nn.Module, chosen: Literal[True] | Sequence[str]) -> str:
    """Make modules of a model blocks, in place.

    Args: chosen: True: `repeated_blocks`; else patterns (`fnmatch`) of their names; of modules within each other the outermost.
    Returns: a notice: which these are.
    Raises: SpecError for a pattern that matches nothing, where nothing is repeated, and for a module that has no forward of its class.
    """
    blocks = repeated_blocks(model) if chosen is True else _matching(model, chosen)
    for name, module in blocks.items():
        if isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module):
            raise SpecError(FIELD, f"{name} is not run by the forward of its class, so it cannot be run again.", "Name other modules.")
        kind: Any = type(module)
        if not issubclass(kind, Block):  # a module under two names
            module.__class__ = block_class(kind)
    names = list(blocks)
    first_and_last = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
    return f"Activation checkpointing: {len(names)} block{'s' if len(names) > 1 else ''} ({first_and_last}), run once more in the backward pass."


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """What a model is a row of, by name: the parts of its `nn.Sequential`s and `nn.ModuleList`s that have parts themselves, the outermost that
    are no such rows of parts themselves. Raises: SpecError where there are none.
    """
    if not (blocks := _repeated(model, "")):
        problem = f"this model ({type(model).__name__}) has no row of blocks, an nn.ModuleList or nn.Sequential of modules that have parts."
        raise SpecError(FIELD, problem, f"Name modules, such as [{next((name for name, _ in model.named_children()), 'block')}].")
    return blocks


def _repeated(module: nn.Module, prefix: str) -> dict[str, nn.Module]:
    blocks: dict[str, nn.Module] = {}
    for child_name, child in module.named_children():
        name = f"{prefix}{child_name}"
        is_part = isinstance(module, CONTAINERS) and any(True for _ in child.children()) and any(True for _ in child.parameters())
        inner = {} if is_part and not isinstance(child, CONTAINERS) else _repeated(child, f"{name}.")
        if inner or not is_part or isinstance(child, nn.ModuleList):
            blocks |= inner
        else:
            blocks[name] = child
    return blocks


def _matching(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name and _runs(module)}
    matched = {pattern: [name for name in modules if fnmatchcase(name, pattern)] for pattern in patterns}
    for pattern, names in matched.items():
        if not names:
            more = [f"and {len(modules) - MOST_NAMES} more"] if len(modules) > MOST_NAMES else []
            hint = nearest(pattern, modules, listed=[*list(modules)[:MOST_NAMES], *more])
            raise SpecError(FIELD, f"{pattern!r} matches no module of this model that runs.", hint)
    chosen = {name for names in matched.values() for name in names}
    return {name: module for name, module in modules.items() if name in chosen and not any(name.startswith(f"{other}.") for other in chosen)}


def _runs(module: nn.Module) -> bool:
    """Whether a module has a forward: a list of modules has none."""
    return type(module).forward not in {nn.Module.forward, nn.ModuleList.forward, nn.ModuleDict.forward}


@contextmanager
def blocks_called_by(model: nn.Module, call: Call) -> Iterator[None]:
    """Context in which a model's blocks are called so; no difference where it has none."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.checkpointing_call = call
    try:
        yield
    finally:
        for block in blocks:
            del block.checkpointing_call
