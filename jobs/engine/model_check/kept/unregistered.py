"""Refuses what takes part in the loss and asks for a gradient, but is none of the model's parameters: layers in a plain list, most often.

No optimizer reaches it, no checkpoint has it and no other device gets it: the run would train a part of what its author wrote.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from largebatch.jobs.engine.model_check.kept.held import held_by, in_words
from largebatch.jobs.engine.model_check.passes import Passes
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.trees import Tree
from largebatch.jobs.tasks.base import Task


def refuse_unregistered(passes: Passes, batch: Tree) -> None:
    """Raise PlanError for a tensor that passes ask a gradient of and that is no parameter of the model.

    One that is made anew in each pass is none to train: the inputs, for one, in a loss that goes by their gradient.
    """
    own = {id(param) for param in passes.model.parameters()}
    before, after = (_asked(passes.probed(batch)) for _ in range(2))
    for place, tensor in before.items():
        if place in after and place not in own:
            name = next((name for name, held in _held(passes.model) if held is tensor), None)
            if name is None and (of_task := next((name for name, held in _held_by(passes.task) if held is tensor), None)):
                raise PlanError(
                    "task",
                    f"its {of_task}, of shape {tuple(tensor.shape)}, takes part in the loss and is none of the model's parameters: nothing would"
                    " train it, or save it.",
                    "Let the model hold it, and give it, or what it makes of it, beside its outputs; what is not to train: requires_grad_(False).",
                )
            what = f"a tensor of shape {tuple(tensor.shape)}" if name is None else f"{name}, of shape {tuple(tensor.shape)},"
            raise PlanError(
                "model",
                f"{what} takes part in the loss and is none of the model's parameters: nothing would train it, or save it.",
                "Keep layers in nn.ModuleList or nn.ModuleDict and tensors in nn.Parameter; what is not to train: requires_grad_(False).",
            )


def _asked(probe: Tensor) -> dict[int, Tensor]:
    """The tensors at the ends of a graph, by their identity."""
    ends: dict[int, Tensor] = {}
    nodes, seen = [probe.grad_fn], set[Any]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(tensor := getattr(node, "variable", None), Tensor):  # a node that adds up a gradient
            ends[id(tensor)] = tensor
        nodes.extend(below for below, _ in node.next_functions)
    return ends


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the attributes of modules and in what these hold, by the way there."""
    for name, module in model.named_modules():
        yield from ((f"{name}.{way}".lstrip("."), tensor) for way, tensor in _tensors(module) if not way.startswith("_"))


def _held_by(task: Task) -> Iterator[tuple[str, Tensor]]:
    """The same of a task, which may be a module itself."""
    if isinstance(task, nn.Module):
        yield from task.named_parameters()
    yield from _tensors(task)


def _tensors(holder: object) -> Iterator[tuple[str, Tensor]]:
    for way, held in held_by(holder):
        if isinstance(held, Tensor):
            yield in_words(way), held
        elif isinstance(held, nn.Module):
            yield from ((f"{in_words(way)}.{inner}", param) for inner, param in held.named_parameters())
