"""Regression: squared, Huber or quantile loss; RMSE, MAE and R2.

Letters: N samples, D numbers predicted for each.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import Metric
from largebatch.jobs.tasks.outputs import logits_of, wide

R2 = Metric("r2", "higher")
RMSE = Metric("rmse", "lower")
MAE = Metric("mae", "lower")


class Regression(Task):
    """Numbers for each sample. A batch is (inputs, targets), targets (N,) or (N, ...) floating-point.

    The loss of a sample is the sum over its numbers, with e = prediction - target, of

        mse        e^2
        huber      e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2)
        quantile   max(-q e, (1 - q) e): the q-quantile minimises it (Koenker and Bassett, 1978)

    divided by their number D. R2 = 1 - sum e^2 / sum (target - mean target)^2 over all samples and numbers together, each of the D numbers
    about its own mean.

    Args:
        delta: huber's bound between squared and absolute error, above 0, in the targets' unit.
        quantile: which, between 0 and 1.
    """

    headline = RMSE
    others = (MAE, R2)

    def __init__(self, loss: Literal["mse", "huber", "quantile"] = "mse", delta: float = 1.0, quantile: float = 0.5) -> None:
        self._loss, self._delta, self._quantile = loss, delta, quantile

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`."""
        return self._losses(*self._predictions_and_targets(model, batch))

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """See `Task`; in float64, for the squares' sums are subtracted from each other."""
        predictions_ND, targets_ND = (numbers.double() for numbers in self._predictions_and_targets(model, batch))
        errors_ND = predictions_ND - targets_ND
        sums = {
            "loss": self._losses(predictions_ND, targets_ND),
            "squared_errors": errors_ND.square().sum(),
            "absolute_errors": errors_ND.abs().sum(),
            "numbers": torch.tensor(float(targets_ND.numel())),
        }
        for number, column_N in enumerate(targets_ND.T):
            sums |= {f"targets.{number}": column_N.sum(), f"squared_targets.{number}": column_N.square().sum()}
        return sums

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """See `Task`. R2 is 0 where the targets do not vary."""
        squares = (total - sums[f"targets.{name.partition('.')[2]}"] ** 2 / weight for name, total in sums.items() if name.startswith("squared_t"))
        variation = sum(squares)
        return {
            "rmse": (sums["squared_errors"] / sums["numbers"]) ** 0.5,
            "mae": sums["absolute_errors"] / sums["numbers"],
            "r2": 1.0 - sums["squared_errors"] / variation if variation > 0 else 0.0,
            "loss": sums["loss"] / weight,
        }

    def _predictions_and_targets(self, model: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both (N, D), in float32 at the least. Raises: ValueError where there are not as many predictions as targets."""
        inputs, targets = batch
        outputs = wide(logits_of(model(inputs)))
        if len(outputs) != len(targets) or outputs.numel() != targets.numel():
            raise ValueError(f"the model gives {tuple(outputs.shape)} for targets {tuple(targets.shape)}")
        targets_ND = targets.to(outputs.dtype).reshape(len(targets), -1)
        return outputs.reshape(targets_ND.shape), targets_ND

    def _losses(self, predictions_ND: Tensor, targets_ND: Tensor) -> Tensor:
        if self._loss == "mse":
            total = functional.mse_loss(predictions_ND, targets_ND, reduction="sum")
        elif self._loss == "huber":
            total = functional.huber_loss(predictions_ND, targets_ND, reduction="sum", delta=self._delta)
        else:
            errors_ND = predictions_ND - targets_ND
            total = torch.maximum(-self._quantile * errors_ND, (1 - self._quantile) * errors_ND).sum()
        return total / targets_ND.shape[1]
