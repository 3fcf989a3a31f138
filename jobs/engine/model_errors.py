"""What to tell a person of an error that a model, or a task of their own, raises."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import LargebatchError, PlanError
from largebatch.jobs.samples.trees import Tree, dtype_name, leaves
from largebatch.jobs.tasks.base import Task, is_of_task
from largebatch.jobs.tasks.outputs import about_one, in_words


@contextmanager
def errors_in_words(batch: Tree, mode: str, model: nn.Module | None = None, task: Task | None = None) -> Iterator[None]:
    """Context of a pass whose errors become a PlanError; memory that ran out, and errors in words already, stay what they are.

    Args: model, task: see `failure`.
    """
    try:
        yield
    except ANYTHING as error:  # a person's own model may raise anything
        if isinstance(error, LargebatchError) or ran_out_of_memory(error):
            raise
        raise failure(error, batch, mode, model, task) from error


def failure(error: BaseException, batch: Tree, mode: str, model: nn.Module | None = None, task: Task | None = None) -> PlanError:
    """What to raise where a model raises something. Args: task: which called the model, and may have raised it itself."""
    inputs = leaves(batch)[0]
    if task is not None and is_of_task(error, task, model):
        takes_gradients = mode == "evaluation" and "does not require grad" in str(error)
        hint = "Evaluation goes without gradients: take those of the loss within `with torch.enable_grad():`." if takes_gradients else "Mend it."
        return PlanError("task", f"its loss failed on {in_words(inputs)} in {mode}: {described(error)}.", hint)
    problem = f"cannot take {in_words(inputs)} in {mode}: {described(error)}."
    return PlanError("model", problem, f"{_remedy(str(error), inputs)}{about_one(inputs)}")


def _remedy(message: str, inputs: Tensor) -> str:
    """The remedy for an error of torch's own, by its words."""
    if "does not require grad" in message:
        return "Its logits must depend on its weights with a gradient: without torch.no_grad() and .detach() on the way."
    if "backward through the graph a second time" in message or "modified by an inplace operation" in message:
        return "Keep nothing of an earlier pass with its gradient (.detach() what is kept), and change nothing in place that the backward pass needs."
    if any(words in message for words in ("dtype", "scalar type", "should be the same")):
        return f"Bring both to one type: .float() of the model, and of the samples ({dtype_name(inputs)}); precision: bfloat16 computes in 16 bits."
    return "Choose a model for such samples, or change the samples."
