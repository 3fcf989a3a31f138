"""Contrastive losses over the whole global batch: InfoNCE as CLIP and SimCLR have it, and SigLIP's sigmoid loss.

Every sample is compared with every other of the global batch, so that a mean over micro-batches would be another loss. The engine therefore
makes two passes (GradCache, Gao et al., arXiv:2101.06983): embeddings of all samples on all ranks without a gradient; the loss and its
gradient with respect to them, here, in blocks of rows; then each micro-batch again with those gradients.
Letters: B samples of the global batch, R rows of a block, D numbers of an embedding.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import Metric

BLOCK = 256
"""Rows of the matrix of similarities that are held at once."""
RECALL_AT_1 = Metric("recall_at_1", "higher", is_fraction=True)
RECALL_AT_5 = Metric("recall_at_5", "higher", is_fraction=True)


class Embeddings(NamedTuple):
    """Two embeddings of each sample, and the numbers that similarities are scaled by."""

    first: Tensor
    """(B, D), each of length 1: an image, or one view of it."""
    second: Tensor
    """(B, D), each of length 1: its text, or the other view."""
    scale: Tensor
    """0-d: what similarities are multiplied by, the inverse of the temperature."""
    bias: Tensor
    """0-d: what is added to them."""


class CoupledTask(Task):
    """A task whose loss looks at all samples of the global batch together, through their embeddings alone."""

    @abstractmethod
    def embed(self, model: Forward, batch: Batch) -> Embeddings:
        """The embeddings of some samples; each must depend on its own sample alone."""

    @abstractmethod
    def loss_blocks(self, embeddings: Embeddings, start: int, stop: int) -> Iterator[Tensor]:
        """The loss that rows `start` to `stop` of the global batch add, in pieces, each 0-d with a gradient towards `embeddings`.

        The pieces of all rows add up to the loss summed over the batch.
        """

    @abstractmethod
    def coupled_metrics(self, embeddings: Embeddings) -> dict[str, float]:
        """Scores of a whole part of the data."""

    def probe(self, model: Forward, batch: Batch) -> Tensor:
        """See `Task`: numbers of the embeddings, each times a weight of its own, for the loss couples samples."""
        embeddings = self.embed(model, batch)
        weights_D = torch.linspace(-1.0, 2.0, embeddings.first.shape[1], device=embeddings.first.device)
        return ((embeddings.first + embeddings.second) * weights_D).sum()

    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """The loss of these samples as if they were the whole batch; never a step's."""
        embeddings = self.embed(model, batch)
        return torch.stack(list(self.loss_blocks(embeddings, 0, len(embeddings.first)))).sum()

    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """Not of a part of the samples: see `coupled_metrics`."""
        raise NotImplementedError("metrics of a coupled task are of all samples together")


class Contrastive(CoupledTask):
    """Pairs that belong together against all that do not. A batch is (first inputs, second inputs), or a tree that the model takes whole.

    The model gives (first, second), or (first, second, log of the scale), or (first, second, log of the scale, bias), embeddings (N, D) of any
    length; they are brought to length 1. With s_ij = scale * first_i . second_j + bias and B pairs the loss of the batch is the mean over i of

        clip      (-log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i]) / 2           (Radford et al., arXiv:2103.00020)
        simclr    the same with each view's own side among the negatives, itself left out   (Chen et al., arXiv:2002.05709)
        siglip    -sum_j log sigmoid(z_ij s_ij), z = 1 on the diagonal, -1 off it  (Zhai et al., arXiv:2303.15343)

    Args:
        temperature: 1 / scale where the model gives no scale.
        bias: where the model gives none; SigLIP begins with -10.
    """

    headline = RECALL_AT_1
    others = (RECALL_AT_5,)

    def __init__(self, loss: Literal["clip", "simclr", "siglip"] = "clip", temperature: float = 0.07, bias: float = 0.0) -> None:
        self._loss, self._temperature, self._bias = loss, temperature, bias

    def embed(self, model: Forward, batch: Batch) -> Embeddings:
        """See `CoupledTask`; in float32."""
        first, second, *rest = model(*batch)
        scale = rest[0].float().exp().reshape(()) if rest else first.new_tensor(1.0 / self._temperature, dtype=torch.float32)
        bias = rest[1].float().reshape(()) if len(rest) > 1 else first.new_tensor(self._bias, dtype=torch.float32)
        return Embeddings(functional.normalize(first.float(), dim=1), functional.normalize(second.float(), dim=1), scale, bias)

    def loss_blocks(self, embeddings: Embeddings, start: int, stop: int) -> Iterator[Tensor]:
        """See `CoupledTask`."""
        first, second = embeddings.first, embeddings.second
        for row in range(start, stop, BLOCK):
            rows = torch.arange(row, min(row + BLOCK, stop), device=first.device)
            if self._loss == "siglip":
                yield _sigmoid_losses(_similarities(embeddings, first[rows], second), rows)
            else:
                yield self._cross_entropies(embeddings, first, second, rows) / 2
                yield self._cross_entropies(embeddings, second, first, rows) / 2

    def _cross_entropies(self, embeddings: Embeddings, own: Tensor, other: Tensor, rows: Tensor) -> Tensor:
        similarities_RB = _similarities(embeddings, own[rows], other)
        if self._loss == "simclr":
            to_own_RB = _similarities(embeddings, own[rows], own)
            itself = functional.one_hot(rows, len(own)).bool()
            similarities_RB = torch.cat([similarities_RB, to_own_RB.masked_fill(itself, -torch.inf)], dim=1)
        return functional.cross_entropy(similarities_RB, rows, reduction="sum")

    @torch.no_grad()
    def coupled_metrics(self, embeddings: Embeddings) -> dict[str, float]:
        """Loss, and how often a first input's partner is the nearest, or among the five nearest, of all second inputs; ties count against it."""
        num_samples = len(embeddings.first)
        loss = sum(float(piece) for piece in self.loss_blocks(embeddings, 0, num_samples)) / num_samples
        ranks = []
        for start in range(0, num_samples, BLOCK):
            similarities_RB = embeddings.first[start : start + BLOCK] @ embeddings.second.T
            partners = torch.arange(start, start + len(similarities_RB), device=similarities_RB.device)
            ranks.append((similarities_RB >= similarities_RB.gather(1, partners[:, None])).sum(1))
        rank = torch.cat(ranks)
        return {"recall_at_1": float((rank <= 1).double().mean()), "recall_at_5": float((rank <= 5).double().mean()), "loss": loss}


def _similarities(embeddings: Embeddings, rows: Tensor, columns: Tensor) -> Tensor:
    return rows @ columns.T * embeddings.scale + embeddings.bias


def _sigmoid_losses(similarities_RB: Tensor, rows: Tensor) -> Tensor:
    signs = 2.0 * functional.one_hot(rows, similarities_RB.shape[1]) - 1.0
    return -functional.logsigmoid(signs * similarities_RB).sum()
