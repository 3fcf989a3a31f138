"""Classification: cross-entropy and accuracy, with class weights, sample weights, soft labels, and several labels at once.

Letters: N samples, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.trees import dtype_name, leaves
from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import ACCURACY, Metric
from largebatch.jobs.tasks.outputs import about_one, in_words, logits_of, wide


class Classification(Task):
    """One class for each sample. A batch is (inputs, labels) or (inputs, labels, sample weights).

    Labels are (N,) whole numbers of any type, or (N, C) floating-point shares that add up to 1 (soft labels, mixup). The training loss is

        sum_n w_n sum_c -q_nc log softmax(logits_n)_c

    with q the label, smoothed, and w_n the sample's weight times its class's (of a soft label the mean of the classes' weights).

    Args:
        num_classes: C.
        label_smoothing: share of each target that is spread evenly over all classes; in training alone.
        class_weights: one for each class, above 0.
        has_sample_weights: whether batches have a third part, the samples' weights.
    """

    headline = ACCURACY

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, class_weights: Sequence[float] = (), has_sample_weights: bool = False) -> None:
        self._num_classes, self._label_smoothing, self._has_sample_weights = num_classes, label_smoothing, has_sample_weights
        self._class_weights = torch.tensor(class_weights) if class_weights else None

    @property
    def counts_samples(self) -> bool:
        """See `Task`: with class weights, or a weight beside each sample, the labels must be read first."""
        return self._class_weights is None and not self._has_sample_weights

    def refuse_output(self, output: Any, batch: Batch, mode: str) -> None:
        """Raise PlanError for anything but a logit for each sample and class."""
        inputs = leaves(batch)[0]
        shape = (len(inputs), self._num_classes)
        has_others = any(name.startswith("aux_logits") for name in getattr(output, "_fields", ()))  # torchvision's googlenet and inception_v3
        logits = output if has_others else getattr(output, "logits", output)
        if isinstance(logits, Tensor) and tuple(logits.shape) == shape and logits.is_floating_point():
            return
        form = type(logits).__name__
        if isinstance(logits, Tensor):
            form = f"{tuple(logits.shape)}" if logits.is_floating_point() else f"{tuple(logits.shape)} {dtype_name(logits)}"
        hint = f"It must give logits (samples, classes), here {shape}, in training and in evaluation."
        if has_others:
            hint = "Turn its auxiliary outputs off: --set model.arguments.aux_logits=false --set model.arguments.init_weights=true."
        raise PlanError("model", f"gives {form} for {in_words(inputs)} in {mode}.", f"{hint}{about_one(inputs)}")

    def weight(self, batch: Batch) -> Tensor:
        """The samples' weights, each times its class's."""
        return self._weights(batch).sum()

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`; in float32 whatever the model computes in."""
        return self._summed(logits_of(model(batch[0])).float(), _labels(batch), batch, self._label_smoothing)

    def plain_loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """The weighted loss without label smoothing, with a gradient, in the numbers that the model gives: what sharpness is of."""
        logits_NC, labels = logits_of(model(batch[0])), _labels(batch)
        if labels.is_floating_point():
            labels = labels.to(logits_NC.dtype)
        return self._summed(logits_NC, labels, batch)

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """Right answers, and the loss without label smoothing; both weighted."""
        logits_NC, labels = logits_of(model(batch[0])), _labels(batch)
        classes_N = labels if labels.ndim == 1 else labels.argmax(1)
        is_right_N = logits_NC.argmax(1) == classes_N
        right_N = is_right_N if self.counts_samples else is_right_N * self._weights(batch)
        return {"accuracy": right_N.sum(), "loss": self._summed(logits_NC.float(), labels, batch)}

    def _summed(self, logits_NC: Tensor, labels: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy summed over the samples, each times its weight."""
        if self.counts_samples:
            return functional.cross_entropy(logits_NC, labels, reduction="sum", label_smoothing=label_smoothing)
        losses_N = functional.cross_entropy(logits_NC, labels, reduction="none", label_smoothing=label_smoothing)
        return (losses_N * self._weights(batch)).sum()

    def _weights(self, batch: Batch) -> Tensor:
        labels = _labels(batch)
        weights_N = batch[2].float() if self._has_sample_weights else torch.ones(len(labels), device=labels.device)
        if self._class_weights is None:
            return weights_N
        class_weights_C = self._class_weights.to(labels.device)
        return weights_N * (class_weights_C[labels] if labels.ndim == 1 else labels.float() @ class_weights_C)


def _labels(batch: Batch) -> Tensor:
    """Numbers of classes as torch's losses and indices take them: int32 they refuse, and uint8 they take for a mask; shares as they are."""
    labels: Tensor = batch[1]
    return labels if labels.is_floating_point() else labels.long()


class MultiLabel(Task):
    """Any number of the C classes for each sample: binary cross-entropy summed over classes. Labels are (N, C), 0 or 1, or shares between.

    A label is predicted where its logit is above 0; "accuracy" is the mean over labels, "f1" counts all labels together (micro-averaged):
    2 TP / (2 TP + FP + FN).
    """

    headline = Metric("f1", "higher", is_fraction=True)
    others = (ACCURACY,)

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`."""
        inputs, labels_NC = batch
        return _binary_cross_entropy(logits_of(model(inputs)), labels_NC)

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """See `Task`."""
        inputs, labels_NC = batch
        logits_NC = logits_of(model(inputs))
        is_predicted, is_true = logits_NC > 0, labels_NC > 0.5
        return {
            "loss": _binary_cross_entropy(logits_NC, labels_NC),
            "right": (is_predicted == is_true).sum(),
            "labels": torch.tensor(float(labels_NC.numel())),
            "true_positives": (is_predicted & is_true).sum(),
            "positives": is_predicted.sum() + is_true.sum(),
        }

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """See `Task`; f1 is 0 where nothing is true and nothing predicted."""
        f1 = 2 * sums["true_positives"] / sums["positives"] if sums["positives"] else 0.0
        return {"f1": f1, "accuracy": sums["right"] / sums["labels"], "loss": sums["loss"] / weight}


def _binary_cross_entropy(logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
    logits_NC = wide(logits_NC)
    return functional.binary_cross_entropy_with_logits(logits_NC, labels_NC.to(logits_NC.dtype), reduction="sum")
