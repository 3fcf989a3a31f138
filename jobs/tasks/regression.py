"""Regression: squared, Huber or quantile loss; RMSE, MAE and R2.

Letters: N samples, D numbers predicted for each.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.trees import leaves
from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import Metric
from largebatch.jobs.tasks.outputs import logits_of, wide

R2 = Metric("r2", "higher")
RMSE = Metric("rmse", "lower")
MAE = Metric("mae", "lower")
MOST_BY_NUMBER = 64
"""Numbers of a sample whose sums stand one by one; of more they stand in one tensor."""


class Regression(Task):
    """Numbers for each sample. A batch is (inputs, targets), targets (N,) or (N, ...) floating-point.

    The loss of a sample is the sum over its numbers, with e = prediction - target, of

        mse        e^2
        huber      e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2)
        quantile   max(-q e, (1 - q) e): the q-quantile minimises it (Koenker and Bassett, 1978)

    divided by their number D. R2 = 1 - sum e^2 / sum (target - mean target)^2 over all samples and numbers together, each of the D numbers
    about its own mean. Predictions have the targets' shape; (N,) and (N, 1) are the same, and (N, D) are a target's numbers in their order in memory.

    Args:
        delta: huber's bound between squared and absolute error, above 0, in the targets' unit.
        quantile: which, between 0 and 1.
        about: (D,), what targets are near, the same on every rank: sums of squares about it lose no digits where targets vary little about much.
    """

    headline = RMSE
    others = (MAE, R2)

    def __init__(self, loss: Literal["mse", "huber", "quantile"] = "mse", delta: float = 1.0, quantile: float = 0.5,
                 about: Tensor | None = None) -> None:  # fmt: skip
        self._loss, self._delta, self._quantile, self._about = loss, delta, quantile, about

    def refuse_output(self, output: Any, batch: Batch, mode: str) -> None:
        """Raise PlanError for predictions of another shape than the targets'."""
        predictions, targets = logits_of(output), batch[1]
        if not _is_of(predictions, targets):
            problem = f"gives {tuple(predictions.shape)} for targets {tuple(targets.shape)} in {mode}."
            raise PlanError("model", problem, "Give one number for each of a target's, in its shape: as many in another order would be mixed up.")

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`; in float32 at the least."""
        outputs, targets = self._outputs_and_targets(model, batch)
        targets_ND = targets.to(outputs.dtype).reshape(len(targets), -1)
        return self._losses(outputs.reshape(targets_ND.shape), targets_ND)

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """See `Task`; in float64, for the squares' sums are subtracted from each other."""
        outputs, targets = self._outputs_and_targets(model, batch)
        predictions_ND, targets_ND = (numbers.double().reshape(len(targets), -1) for numbers in (outputs, targets))
        errors_ND = predictions_ND - targets_ND
        about_D = 0.0 if self._about is None else self._about.to(targets.device)
        from_there_ND = targets_ND - about_D
        sums_D = from_there_ND.sum(0)
        by_number = (
            {f"targets.{number}": total for number, total in enumerate(sums_D.unbind())} if len(sums_D) <= MOST_BY_NUMBER else {"targets": sums_D}
        )
        return {
            "loss": self._losses(predictions_ND, targets_ND),
            "squared_errors": errors_ND.square().sum(),
            "absolute_errors": errors_ND.abs().sum(),
            "numbers": torch.tensor(float(targets_ND.numel())),
            "squared_targets": from_there_ND.square().sum(),
            **by_number,
        }

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """See `Task`. R2 is 0 where the targets do not vary."""
        variation = sums["squared_targets"] - sum(total**2 for name, total in sums.items() if name.startswith("targets.")) / weight
        return {
            "rmse": (sums["squared_errors"] / sums["numbers"]) ** 0.5,
            "mae": sums["absolute_errors"] / sums["numbers"],
            "r2": 1.0 - sums["squared_errors"] / variation if variation > 0 else 0.0,
            "loss": sums["loss"] / weight,
        }

    @staticmethod
    def _outputs_and_targets(model: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the model gives, in float32 at the least, and the targets as they are. Raises: ValueError where their shapes do not fit."""
        inputs, targets = batch
        outputs = wide(logits_of(model(inputs)))
        if not _is_of(outputs, targets):
            raise ValueError(f"the model gives {tuple(outputs.shape)} for targets {tuple(targets.shape)}")
        return outputs, targets

    def _losses(self, predictions_ND: Tensor, targets_ND: Tensor) -> Tensor:
        if self._loss == "mse":
            total = functional.mse_loss(predictions_ND, targets_ND, reduction="sum")
        elif self._loss == "huber":
            total = functional.huber_loss(predictions_ND, targets_ND, reduction="sum", delta=self._delta)
        else:
            errors_ND = predictions_ND - targets_ND
            total = torch.maximum(-self._quantile * errors_ND, (1 - self._quantile) * errors_ND).sum()
        return total / targets_ND.shape[1]


def _is_of(predictions: Tensor, targets: Tensor) -> bool:
    """Whether each prediction is of one target: in the same shape, (N,) for (N, 1) or the other way round, or flat as the data count them."""
    size = len(targets)
    number = targets[0].numel() if size else 0
    shapes = {tuple(targets.shape), (size, number), *([(size,)] if number == 1 and targets.ndim <= 2 else [])}
    return tuple(predictions.shape) in shapes


def first_target(dataset: Dataset) -> Tensor:
    """The first training sample's target, (D,) float64: what all are near if they vary little; zeros for what is no number, or not known."""
    return leaves(dataset.blank(1, torch.device("cpu")))[-1][0].double().flatten().nan_to_num(0.0, 0.0, 0.0)
