"""Finds the cause of a loss or gradient that is not finite: samples that hold NaN, infinity or huge numbers, the model, or the learning rate."""

from collections.abc import Mapping

from torch import Tensor, nn

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.errors import DataError, DivergedError
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, map_leaves

HUGE = 1e18
"""Numbers beyond this leave float32 where their squares are added up."""


class FiniteBatches:
    """Reads batches with a finite sample in place of each that holds NaN, infinity or a huge number.

    If the loss of the same samples is finite then, the data were at fault: a model may be made for NaN, and diverge for other reasons.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.replaced: dict[int, float] = {}
        """By its index in the order that was read: each such sample's largest number, or NaN or infinity."""

    def read(self, samples: Slice) -> Tree:
        """See `Batches`."""
        return map_leaves(lambda leaf: self._made_finite(leaf, samples), self._batches.read(samples))

    def _made_finite(self, inputs: Tensor, samples: Slice) -> Tensor:
        if not (inputs.is_floating_point() or inputs.is_complex()):
            return inputs
        sizes = inputs.reshape(len(inputs), -1).abs().float()
        is_sound = (sizes <= HUGE).all(dim=1)
        if not bool(is_sound.all()):
            for index in (~is_sound).nonzero().flatten().tolist():
                self.replaced[samples.start + index] = float(sizes[index].max())
            stand_in = inputs[is_sound][:1]
            inputs[~is_sound] = stand_in if len(stand_in) else inputs.new_zeros(())
        return inputs


def non_finite_error(kind: str, sizes: Mapping[int, float], num_samples: int, what: str) -> DataError | None:
    """What to raise for samples that are at fault; None where there are none.

    Args: sizes: of each by its number in the data set, its largest number; num_samples: of how many that were read; what: was not finite.
    """
    if not sizes:
        return None
    first = min(sizes)
    holds = f"numbers as large as {sizes[first]:.3g}" if HUGE < sizes[first] < float("inf") else "NaN or infinity"
    others = f" (as do {len(sizes) - 1} more of the {num_samples} that were read)" if len(sizes) > 1 else ""
    return DataError(
        "dataset",
        f"{kind} sample {first} holds {holds}{others}, so {what} is not finite; with another in its place it is.",
        "Mend or leave out such samples.",
    )


def non_finite_gradient(model: nn.Module) -> str | None:
    """The name of the first parameter whose gradient is not finite; None where all are."""
    return next((name for name, param in model.named_parameters() if param.grad is not None and not bool(param.grad.isfinite().all())), None)


def diverged(step: int, loss: float, squared_norm: float, parameter: str | None) -> DivergedError:
    """What to raise for a step that is not finite though its samples are: of the first, the rate is no cause.

    Args: parameter: one whose gradient is not finite.
    """
    numbers = f"the loss is {loss} and the squared gradient norm {squared_norm} at step {step}"
    if step > 1:
        return DivergedError("", f"{numbers}.", "Lower learning_rate.base, lengthen the warm-up, or set gradient.clip_norm.")
    where = f"; the gradient of {parameter} is not finite" if parameter else ""
    return DivergedError(
        "",
        f"{numbers}, before the first update, so no learning rate is the cause{where}.",
        "Look at the model's own arithmetic: a root or a norm at zero, a logarithm, an exponential, a division, or weights that begin too large.",
    )
