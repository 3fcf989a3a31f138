"""Language modelling: the next token of a sequence; every token that counts weighs 1, wherever it stands.

Letters: N sequences, T tokens of each, V tokens of the vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.samples.number_ranges import IGNORED
from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import ACCURACY, LOSS, Metric
from largebatch.jobs.tasks.outputs import logits_of, wide

LARGEST_EXPONENT = 700.0
"""Beyond it exp leaves float64."""
PERPLEXITY = Metric("perplexity", "lower")
BITS_PER_BYTE = Metric("bits_per_byte", "lower")


class LanguageModelling(Task):
    """Tokens predicted. A batch is (tokens, targets), both (N, T) int64, maybe with the targets' bytes; a target of -100 does not count.

    The data set has shifted the targets: targets[n, t] is the token after tokens[n, t]. The loss is the cross-entropy summed over the
    targets that count, in nats, and the weight is their number: sequences of different length, padding and prompts change no token's share.

        perplexity = exp(loss),    bits per byte = (sum of losses / ln 2) / (bytes of the text that the targets that count stand for)

    The bytes are the third tensor of a batch, (N, T) whole numbers, or follow from the token. Where neither is known, bits per byte is no metric of
    the task: a tokenizer that puts letters into lower case, drops spaces or cuts a character in parts leaves no way to tell them from tokens.

    Args:
        bytes_per_token: (V,) the number of UTF-8 bytes that each token stands for; empty: batches tell.
        counts_bytes: whether bits per byte is a metric; None: where bytes_per_token is given.
    """

    headline = LOSS
    others: tuple[Metric, ...] = (PERPLEXITY, BITS_PER_BYTE, ACCURACY)

    def __init__(self, bytes_per_token: Sequence[int] = (), *, counts_bytes: bool | None = None) -> None:
        self._counts_bytes = bool(len(bytes_per_token)) if counts_bytes is None else counts_bytes
        if not self._counts_bytes:
            self.others = (PERPLEXITY, ACCURACY)
        self._bytes_per_token = torch.tensor(bytes_per_token, dtype=torch.float64) if len(bytes_per_token) else None

    def weight(self, batch: Batch) -> Tensor:
        """The number of targets that count."""
        number: Tensor = (batch[1] != IGNORED).sum()
        return number

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`."""
        return summed_cross_entropy(self.logits(model, batch), batch[1])

    def logits(self, model: Forward, batch: Batch) -> Tensor:
        """What the model gives, (N, T, V). A model that sees only what stands before a token sees no padding at the end, and needs no mask of it."""
        return logits_of(model(batch[0]))

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """See `Task`."""
        targets = batch[1]
        logits_NTV = self.logits(model, batch)
        counts = targets != IGNORED
        sums = {
            "loss": summed_cross_entropy(logits_NTV, targets),
            "accuracy": ((logits_NTV.argmax(-1) == targets) & counts).sum(),
        }
        if not self._counts_bytes:
            return sums
        table = self._bytes_per_token
        return sums | {"bytes": batch[2][counts].sum() if table is None else table.to(targets.device)[targets[counts]].sum()}

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """See `Task`; perplexity is cut off at exp(700)."""
        loss = sums["loss"] / weight
        scores = {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_EXPONENT)), "accuracy": sums["accuracy"] / weight}
        if self._counts_bytes:
            scores["bits_per_byte"] = sums["loss"] / math.log(2) / sums["bytes"] if sums["bytes"] else math.inf
        return scores


def summed_cross_entropy(logits_NTV: Tensor, targets_NT: Tensor) -> Tensor:
    """Cross-entropy in nats summed over the targets that count, in float32."""
    return functional.cross_entropy(wide(logits_NTV).reshape(-1, logits_NTV.shape[-1]), targets_NT.reshape(-1), reduction="sum", ignore_index=IGNORED)
