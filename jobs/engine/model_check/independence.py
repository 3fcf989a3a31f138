"""Tries whether a sample's logits and gradient are its own, whatever other samples pass through the model with it.

Some samples at once and in two halves must give the same, in training and in evaluation, within rounding. What is random draws
otherwise for another number of samples: there some samples are exchanged, and the others must stay what they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from largebatch.jobs.engine.model_check.coupled_loss import refuse_coupled_loss
from largebatch.jobs.engine.model_check.draws import DRAW_BY_SAMPLES, is_random
from largebatch.jobs.engine.model_check.passes import Passes, TrainingPass, difference
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.trees import Tree, halves, map_leaves, num_samples
from largebatch.jobs.tasks.registry import OwnTaskConfig

MEAN = 1e-2
"""How near the gradients of two halves are to twice that of the whole, where the loss is a mean."""
CERTAIN = 1e-2
"""Beyond this it is no rounding that a maximum or a sign has blown up."""
CERTAIN_BEHIND_NORMS = 0.1
"""The same where norms over a few samples have blown it up."""
SCALE = 2.0**20
"""A power of two: it changes no digit of a gradient that is in proportion to the loss."""
SPLIT_HINT = (
    "Dimension 0 must be the samples all the way through (batch_first=True for recurrent layers and attention), and nothing but"
    " torch's batch-norm may look along it."
)


def refuse_coupled_training(passes: Passes, samples: Tree, others: Tree) -> bool:
    """Raise PlanError if a sample's gradient depends on other samples, or on more than the loss; returns whether training draws at random."""
    reference, scaled = passes.training(samples), passes.training(samples, scale=SCALE)
    outputs_apart = difference([reference.outputs], [scaled.outputs])
    disproportionate = [
        (number, off)
        for number, pair in enumerate(zip(reference.gradient, scaled.gradient, strict=True))
        if (off := difference(pair[:1], pair[1:])) > passes.rounding / 100
    ]
    del scaled
    by_halves = [passes.training(half) for half in halves(samples)]
    apart = _apart(reference, by_halves)
    if apart > passes.rounding:
        refuse_mean(reference, by_halves)
        refuse_weighted_mean(passes, samples, reference)
    refuse_coupled_loss(passes, samples, reference, by_halves)
    if outputs_apart > passes.rounding / 100:
        raise PlanError(
            "model",
            "gives other logits when the same samples pass through once more with the same seed: it keeps something from pass to pass, or draws"
            " random numbers from elsewhere than torch.",
            "Keep nothing from pass to pass, and draw from torch's own generators.",
        )
    draws = is_random(passes, samples, reference)
    if apart > passes.rounding and (
        (not draws and apart > _certain(passes)) or _others_matter(passes, lambda batch: passes.training(batch).outputs, samples, others)
    ):
        _refuse_unsteady(passes, samples, reference)
        raise _coupled("gradient in training depends", apart)
    for number, off in disproportionate:
        if draws or any(_splits_apart(passes, samples, number, scale) for scale in (SCALE, 1 / SCALE)):
            raise PlanError(
                "model",
                f"the gradient of {passes.trained_names()[number]} is not in proportion to the loss ({100 * off:.3g}% of it is not): a hook, or a"
                " function with a backward pass of its own, adds to it or clips it in each pass, so that micro-batches and workers would change the"
                " result.",
                "Give what the loss is to have besides as an output, and add it up by samples in a task of your own; clip with gradient.clip_norm.",
            )
    return draws


def _refuse_unsteady(passes: Passes, samples: Tree, reference: TrainingPass) -> None:
    """Raise PlanError where the same samples alone give another gradient: what is kept between passes, or drawn in the loss, is no coupling."""
    is_own = isinstance(passes.spec.task, OwnTaskConfig)

    def is_another(seed: int) -> bool:
        return difference(reference.gradient, passes.training(samples, seed).gradient) > passes.rounding / 100

    if is_another(seed=0):
        raise PlanError(
            "task" if is_own else "model",
            f"{'its loss' if is_own else 'a pass'} has another gradient when the same samples pass through once more with the same seed: something is"
            " kept from pass to pass, which micro-batches and workers would change.",
            "Keep nothing from pass to pass: a teacher that is frozen, statistics and centres that stay.",
        )
    if is_own and is_another(seed=1):
        raise PlanError(
            "task",
            "its loss draws random numbers itself, which would belong to the micro-batch: another one, or number of workers, would draw others.",
            DRAW_BY_SAMPLES,
        )


def _splits_apart(passes: Passes, samples: Tree, number: int, scale: float) -> bool:
    """Whether one parameter's gradient is another in two halves, of a loss so much larger; what clips a sample's own numbers follows no split."""
    first, second = (passes.training(half, scale=scale).gradient[number] for half in halves(samples))
    return difference([passes.training(samples, scale=scale).gradient[number]], [first + second], [first], [second]) > _certain(passes)


def _apart(whole: TrainingPass, by_halves: Sequence[TrainingPass]) -> float:
    """How far the gradient of some samples is from that of their two halves together, over the largest of these."""
    parts = [first + second for first, second in zip(by_halves[0].gradient, by_halves[1].gradient, strict=True)]
    return difference(whole.gradient, parts, *(half.gradient for half in by_halves))


def refuse_mean(whole: TrainingPass, by_halves: Sequence[TrainingPass]) -> None:
    """Raise PlanError for a loss that is a mean over the samples: of the halves together it is twice that of the whole, and so is its gradient."""
    parts = [first + second for first, second in zip(by_halves[0].gradient, by_halves[1].gradient, strict=True)]
    if difference([2 * gradient for gradient in whole.gradient], parts) <= MEAN:
        raise PlanError(
            "task",
            "its loss is a mean over the samples: a mean of micro-batches' means is another number than the mean of the batch.",
            "Return the sum, with reduction='sum' or .sum(); the engine divides once.",
        )


def refuse_weighted_mean(passes: Passes, samples: Tree, whole: TrainingPass) -> None:
    """Raise PlanError for a loss that is divided by the samples' weights: of the same samples twice over it is the same, and a sum is double."""
    twice = passes.training(map_leaves(lambda leaf: torch.cat([leaf, leaf]), samples))
    if difference(whole.gradient, twice.gradient) <= MEAN:
        raise PlanError(
            "task",
            "its loss is divided by what the samples weigh: a mean of micro-batches' means is another number than the mean of the batch.",
            "Return the sum of weight times loss, and let weight(batch) give the sum of the weights; the engine divides once.",
        )


def refuse_coupled_evaluation(passes: Passes, samples: Tree, others: Tree) -> None:
    """Raise PlanError if a sample's logits in evaluation depend on other samples, or on chance."""
    reference = passes.evaluation(samples)
    parts = torch.cat([passes.evaluation(half, seed=1) for half in halves(samples)])
    apart = difference([reference], [parts])
    if apart <= passes.rounding:
        return
    if difference([reference], [passes.evaluation(samples, seed=1)]) > passes.rounding / 100:
        raise PlanError(
            "model",
            "gives other logits when the same samples pass through once more in evaluation mode: it is random there, or keeps something from"
            " pass to pass.",
            "A functional dropout needs training=self.training.",
        )
    if apart > _certain(passes) or _others_matter(passes, passes.evaluation, samples, others):
        raise _coupled("logits in evaluation depend", apart)


def _certain(passes: Passes) -> float:
    return CERTAIN_BEHIND_NORMS if passes.has_norms else CERTAIN


def _others_matter(passes: Passes, outputs: Callable[[Tree], Tensor], samples: Tree, others: Tree) -> bool:
    """Whether one half's outputs change when others take the place of the other half."""
    reference, size = outputs(samples), num_samples(samples)
    for kept, rest in ((slice(size // 2), slice(size // 2, None)), (slice(size // 2, None), slice(size // 2))):
        exchanged = map_leaves(Tensor.clone, samples)
        map_leaves(lambda leaf, other, rest=rest: leaf[rest].copy_(other[rest]), exchanged, others)
        if difference([reference[kept]], [outputs(exchanged)[kept]]) > passes.rounding:
            return True
    return False


def _coupled(quantity: str, apart: float) -> PlanError:
    return PlanError(
        "model",
        f"a sample's {quantity} on which others pass with it ({100 * apart:.3g}% between eight at once and four by four): micro-batches and"
        " workers would change the result.",
        SPLIT_HINT,
    )
