"""Finds a model's output heads in a pass through it: the layers whose output is the model's."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from largebatch.jobs.optim.config_base import Kind
from largebatch.jobs.optim.split.kinds import LAYERS, kinds_of

Node = Any
"""An operation that autograd has recorded: see `torch.autograd.graph.Node`."""


@contextmanager
def layers_seen(model: nn.Module) -> Iterator[dict[Node, str]]:
    """Context of a forward pass: what autograd records of each layer's outputs, with the layer's name; it fills as the pass goes on."""
    seen: dict[Node, str] = {}

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                seen.setdefault(tensor.grad_fn, name)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, LAYERS):
                hooks.enter_context(module.register_forward_hook(partial(look, name)))
        yield seen


def head_weights(model: nn.Module, outputs: list[Tensor], layers: dict[Node, str]) -> tuple[str, ...]:
    """Names of the weights that an output of the model passed last: behind them there is none but biases and norms.

    Where the last weights feed each other, as in a residual stream that ends the model, none of them is its head.

    Args: outputs: what the model gave, with its history; layers: what `layers_seen` saw.
    """
    names = {param: name for name, param in model.named_parameters()}
    kinds = kinds_of(model)
    matrices = {param for param, kind in kinds.items() if kind is not Kind.BIAS_OR_NORM}

    def weight_at(node: Node) -> str | None:
        """The weight of the operation, where it has one."""
        if node in layers:
            name = f"{layers[node]}.weight".removeprefix(".")
            return name if name in names.values() else layers[node]
        for below, _ in node.next_functions:
            if (param := _param_of(below)) in matrices:
                return names[param]
        return None

    def is_fed_by(node: Node, weights: Collection[str]) -> bool:
        """Whether an operation follows from one of these weights."""
        return bool(_first_met([node], lambda below: weight_at(below) in weights or None))

    heads: dict[str, None] = {}
    for output in outputs:
        last = _first_met([output.grad_fn], weight_at)
        if not any(is_fed_by(node, {*last.values()} - {weight}) for node, weight in last.items()):
            heads.update(dict.fromkeys(last.values()))
    return tuple(name for name in heads if name in names.values())


def _first_met(nodes: list[Node], what: Callable[[Node], Any]) -> dict[Node, Any]:
    """Of the operations that these follow from, the first on each way of which `what` gives something, with that."""
    met: dict[Node, Any] = {}
    seen: set[Node] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (found := what(node)) is not None:
            met[node] = found
        else:
            nodes.extend(below for below, _ in node.next_functions)
    return met


def _param_of(node: Node) -> nn.Parameter | None:
    """The parameter that a node holds, or of which it is a mere view."""
    while node is not None and not hasattr(node, "variable"):
        if len(node.next_functions) != 1:
            return None
        ((node, _),) = node.next_functions
    return None if node is None else node.variable
