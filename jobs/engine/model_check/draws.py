"""Finds out whether a model draws at random in training, and which of its parts, and says what that means."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_check.passes import Passes, TrainingPass, difference
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.keyed_random import own_draws
from largebatch.jobs.samples.trees import Tree

NUM_SEEDS = 16
"""How many a model that draws is tried with, until one makes a difference: a layer that is left out rarely is there with most of them."""
DRAW_BY_SAMPLES = (
    "Draw in prepare(batch, draws), such as draws.normal('noise', *shape) or draws.uniform('time'): these numbers belong to the samples."
)
"""What to do instead of drawing in a loss."""


def is_random(passes: Passes, samples: Tree, reference: TrainingPass) -> bool:
    """Whether torch's generators make a difference to a pass in training. Args: reference: one with the first seed."""
    if not drawing_parts(passes, samples):
        return False
    return any(difference([reference.outputs], [passes.training(samples, seed).outputs]) > passes.rounding / 100 for seed in range(1, NUM_SEEDS + 1))


def refuse_draws_from_elsewhere(passes: Passes, samples: Tree) -> list[str]:
    """Pass some samples through with other states of Python's and numpy's generators, which no step seeds.

    Returns: a notice, where they are drawn from and it made no difference.
    Raises: PlanError where it makes one.
    """
    with own_draws():
        before = _states()
        reference = passes.training(samples)
        if _states() == before:
            return []
        for seed in range(NUM_SEEDS):
            random.seed(seed)
            np.random.seed(seed)
            other = passes.training(samples)
            of_model = difference([reference.outputs], [other.outputs]) > passes.rounding / 100
            if of_model or difference(reference.gradient, other.gradient) > passes.rounding / 100:
                raise PlanError(
                    "model" if of_model else "task",
                    f"{'' if of_model else 'its loss '}draws random numbers from elsewhere than torch, of Python's or numpy's generators: a resume"
                    " would draw others, and another micro-batch, too.",
                    "Draw from torch's own generators." if of_model else DRAW_BY_SAMPLES,
                )
    return [
        "The model draws from Python's or numpy's generators in training, which nothing here seeds; in"
        f" {NUM_SEEDS} passes that made no difference. Where it makes one, a resume is no longer what would have been without it."
    ]


def _states() -> str:
    """Where Python's and numpy's generators are, whole: numpy cuts what it prints beyond a thousand numbers, and these are 624."""
    return f"{random.getstate()} {np.random.get_state()}"


def drawing_parts(passes: Passes, samples: Tree) -> list[str]:
    """Names of the innermost modules that draw in a pass in training, in the order in which they run; dropouts by sample do not take part."""
    with _recorded_draws(passes.model) as names:
        passes.training(samples)
    return names


def draws_in_words(names: Sequence[str]) -> str:
    """What to tell a person where a step is split."""
    others = {1: "", 2: " and 1 other part"}.get(len(names), f" and {len(names) - 1} other parts")
    return (
        f"The model draws from torch's own generators in training, in {names[0]}{others}: these draws belong to the micro-batch, so that another"
        " micro-batch, or number of workers, gives others. Such are dropout inside attention or recurrent layers, functional.dropout, and nn.Dropout"
        " on what is of no samples; nn.Dropout's on samples, and stochastic depth's, are the samples' own. Where it matters, set that dropout to 0."
    )


@contextmanager
def _recorded_draws(model: nn.Module) -> Iterator[list[str]]:
    """Context in which the modules that move torch's generators are listed, without those that do so by a part of theirs."""
    names: list[str] = []
    before: dict[nn.Module, tuple[list[Tensor], int]] = {}
    device = next(model.parameters()).device

    def generators() -> list[Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]

    def start(module: nn.Module, _: object) -> None:
        before[module] = (generators(), len(names))

    def stop(module: nn.Module, _: object, __: object) -> None:
        states, num_names = before.pop(module)
        has_drawn = not all(map(torch.equal, states, generators()))
        if has_drawn and len(names) == num_names and (name := by_module[module]) not in names:
            names.append(name)

    by_module = {module: name or "the model itself" for name, module in model.named_modules()}
    with ExitStack() as hooks:
        for module in by_module:
            hooks.enter_context(module.register_forward_pre_hook(start))
            hooks.enter_context(module.register_forward_hook(stop))
        yield names
