"""Telling data that hold NaN or infinity from training that diverged, once a loss is not finite."""

from torch import Tensor

from jobs.data.batches import Batches
from jobs.errors import DataError
from jobs.plan import Slice


class FiniteBatches:
    """Batches in which a finite sample stands for each that holds NaN or infinity.

    If the loss of the same samples is finite then, the data were at fault: a model may be made for NaN, and diverge for other reasons.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.replaced: list[int] = []
        """Their places in the order that was read."""

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        """See `Batches`."""
        inputs, labels = self._batches.read(samples)
        is_finite = inputs.reshape(len(inputs), -1).isfinite().all(dim=1)
        if not bool(is_finite.all()):
            self.replaced += [samples.start + place for place in (~is_finite).nonzero().flatten().tolist()]
            stand_in = inputs[is_finite][:1]
            inputs[~is_finite] = stand_in if len(stand_in) else inputs.new_zeros(())
        return inputs, labels


def non_finite_error(kind: str, numbers: list[int], num_samples: int, what: str) -> DataError | None:
    """What to raise for samples that are at fault; None where there are none.

    Args: numbers: theirs in the data set; num_samples: of how many that were read; what: the loss that was not finite.
    """
    if not numbers:
        return None
    others = f" (as do {len(numbers) - 1} more of the {num_samples} that were read)" if len(numbers) > 1 else ""
    return DataError(
        "dataset",
        f"{kind} sample {numbers[0]} holds NaN or infinity{others}, so {what} is not finite; with another in its place it is.",
        "Mend or leave out such samples.",
    )
