"""Language modelling: the next token of a sequence; every token that counts weighs 1, wherever it stands.

Letters: N sequences, T tokens of each, V tokens of the vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import ACCURACY, LOSS, Metric
from largebatch.jobs.tasks.number_ranges import IGNORED
from largebatch.jobs.tasks.outputs import logits_of, wide

LARGEST_EXPONENT = 700.0
"""Beyond it exp leaves float64."""
PERPLEXITY = Metric("perplexity", "lower")
BITS_PER_BYTE = Metric("bits_per_byte", "lower")


class LanguageModelling(Task):
    """Tokens predicted. A batch is (tokens, targets), both (N, T) int64; a target of -100 does not count.

    The data set has shifted the targets: targets[n, t] is the token after tokens[n, t]. The loss is the cross-entropy summed over the
    targets that count, in nats, and the weight is their number: sequences of different length, padding and prompts change no token's share.

        perplexity = exp(loss),    bits per byte = (sum of losses / ln 2) / (bytes of the targets that count)

    Args:
        bytes_per_token: (V,) the number of UTF-8 bytes that each token stands for; empty: one each.
    """

    headline = LOSS
    others = (PERPLEXITY, BITS_PER_BYTE, ACCURACY)

    def __init__(self, bytes_per_token: Sequence[int] = ()) -> None:
        self._bytes_per_token = torch.tensor(bytes_per_token, dtype=torch.float64) if len(bytes_per_token) else None

    def weight(self, batch: Batch) -> Tensor:
        """The number of targets that count."""
        number: Tensor = (batch[1] != IGNORED).sum()
        return number

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`."""
        tokens, targets = batch
        return summed_cross_entropy(logits_of(model(tokens)), targets)

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """See `Task`."""
        tokens, targets = batch
        logits_NTV = logits_of(model(tokens))
        counts = targets != IGNORED
        return {
            "loss": summed_cross_entropy(logits_NTV, targets),
            "accuracy": ((logits_NTV.argmax(-1) == targets) & counts).sum(),
            "bytes": counts.sum() if self._bytes_per_token is None else self._bytes_per_token.to(targets.device)[targets[counts]].sum(),
        }

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """See `Task`; perplexity is cut off at exp(700)."""
        loss = sums["loss"] / weight
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
            "bits_per_byte": sums["loss"] / math.log(2) / sums["bytes"] if sums["bytes"] else math.inf,
            "accuracy": sums["accuracy"] / weight,
        }


def summed_cross_entropy(logits_NTV: Tensor, targets_NT: Tensor) -> Tensor:
    """Cross-entropy in nats summed over the targets that count, in float32."""
    return functional.cross_entropy(wide(logits_NTV).reshape(-1, logits_NTV.shape[-1]), targets_NT.reshape(-1), reduction="sum", ignore_index=IGNORED)
