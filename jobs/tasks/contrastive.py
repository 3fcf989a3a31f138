"""Contrastive losses over the whole global batch: InfoNCE as CLIP and SimCLR have it, and SigLIP's sigmoid loss.

Every sample is compared with every other of the global batch, so that a mean over micro-batches would be another loss. The engine therefore
makes two passes (GradCache, Gao et al., arXiv:2101.06983): embeddings of all samples on all ranks without a gradient; the loss and its
gradient with respect to them, here, in blocks of rows; then each micro-batch again with those gradients.
Letters: B samples of the global batch, R rows of a block, D numbers of an embedding.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.sample_draws import SampleDraws
from largebatch.jobs.samples.trees import leaves
from largebatch.jobs.tasks.base import Batch, Forward, Task
from largebatch.jobs.tasks.metric import Metric
from largebatch.jobs.tasks.nearest_neighbours import Labelled, knn_accuracy
from largebatch.jobs.tasks.views import SimCLRViews

BLOCK = 128
"""Rows of the matrix of similarities that are held at once."""
KEY_BYTES = 4096
"""Of a sample, how many are looked at together for its key."""
RECALL_AT_1 = Metric("recall_at_1", "higher", is_fraction=True)
RECALL_AT_5 = Metric("recall_at_5", "higher", is_fraction=True)
BATCH_ACCURACY = Metric("batch_accuracy", "higher", is_fraction=True)
KNN_ACCURACY = Metric("knn_accuracy", "higher", is_fraction=True)


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

    num_references: int = 0
    """Training samples that every evaluation passes forward besides, for metrics that compare with them; at most, none if 0."""

    @abstractmethod
    def embed(self, model: Forward, batch: Batch) -> Embeddings:
        """The embeddings of some samples; each must depend on its own sample alone."""

    def embed_labelled(self, model: Forward, batch: Batch) -> tuple[Embeddings, Labelled | None]:
        """The embeddings of some samples in evaluation, and what is compared with the references: nothing where there are none."""
        return self.embed(model, batch), None

    def partner_keys(self, batch: Batch) -> Tensor | None:
        """What tells in evaluation which samples have the very same partner: (N,) int64, equal for these alone; None: it is not told."""
        return None

    @abstractmethod
    def loss_blocks(self, embeddings: Embeddings, start: int, stop: int) -> Iterator[Tensor]:
        """The loss that rows `start` to `stop` of the global batch add, in pieces, each 0-d with a gradient towards `embeddings`.

        The pieces of all rows add up to the loss summed over the batch.
        """

    @abstractmethod
    def coupled_metrics(
        self, embeddings: Embeddings, labelled: Labelled | None = None, references: Labelled | None = None, partners: Tensor | None = None
    ) -> dict[str, float]:
        """Scores of a whole part of the data.

        Args:
            references: of `num_references` training samples, as `labelled` of the part.
            partners: what `partner_keys` gives, where it gives something.
        """

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
    length; or a dict of them: first, second, log_scale, bias, and representation (N, R), what of the first input neighbours are looked for by in
    place of its embedding. Embeddings are brought to length 1. With s_ij = scale * first_i . second_j + bias and B pairs the loss of the batch
    is the mean over i of

        clip      (-log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i]) / 2           (Radford et al., arXiv:2103.00020)
        simclr    the same with each view's own side among the negatives, itself left out   (Chen et al., arXiv:2002.05709)
        siglip    -sum_j log sigmoid(z_ij s_ij), z = 1 on the diagonal, -1 off it  (Zhai et al., arXiv:2303.15343)

    Args:
        temperature: 1 / scale where the model gives no scale.
        bias: where the model gives none; SigLIP begins with -10.
        views: makes the pairs of a batch (images, labels): two random views; in evaluation the image itself and one view.
        has_labels: whether a batch ends with the numbers of the samples' classes.
        neighbours, num_references: of `knn_accuracy`, where there are labels.
        accuracy_among: how many pairs in a row `batch_accuracy` compares.
    """

    headline: Metric = RECALL_AT_1
    others: tuple[Metric, ...] = (RECALL_AT_5, BATCH_ACCURACY)

    def __init__(
        self,
        loss: Literal["clip", "simclr", "siglip"] = "clip",
        temperature: float = 0.07,
        bias: float = 0.0,
        *,
        views: SimCLRViews | None = None,
        has_labels: bool = False,
        neighbours: int = 200,
        num_references: int = 10_000,
        accuracy_among: int = 256,
    ) -> None:
        self._loss, self._temperature, self._bias, self._accuracy_among = loss, temperature, bias, accuracy_among
        self._views, self._has_labels, self._neighbours = views, has_labels or views is not None, neighbours
        if self._has_labels:
            self.headline, self.others, self.num_references = KNN_ACCURACY, (RECALL_AT_1, RECALL_AT_5, BATCH_ACCURACY), num_references

    def prepare(self, batch: Batch, draws: SampleDraws) -> Batch:
        """See `Task`: of (images, labels) with views (first, second, labels)."""
        if self._views is None:
            return batch
        images, labels = batch
        first = images if draws.in_evaluation else self._views.view(images, draws, "first view")
        return first, self._views.view(images, draws, "second view"), labels

    def refuse_output(self, output: Any, batch: Batch, mode: str) -> None:
        """Raise PlanError for anything but two embeddings of each sample, and what may stand beside them."""
        parts = _named(output)
        first, second = parts.get("first"), parts.get("second")
        are_embeddings = isinstance(first, Tensor) and isinstance(second, Tensor) and first.ndim == 2 and first.shape == second.shape
        if not are_embeddings or not parts.keys() <= {*PARTS, "representation"}:
            known = f"{', '.join(PARTS)}, representation"
            hint = f"Give (first, second), each (samples, numbers), and maybe the log of the scale, and a bias; or a dict of {known}."
            raise PlanError("model", f"gives no two embeddings of the same shape in {mode}.", hint)

    def embed(self, model: Forward, batch: Batch) -> Embeddings:
        """See `CoupledTask`; in float32."""
        return self._embeddings(_named(model(*self._inputs(batch))))

    def embed_labelled(self, model: Forward, batch: Batch) -> tuple[Embeddings, Labelled | None]:
        """See `CoupledTask`; what the model gives as representation, or else the first embedding, with the labels."""
        parts = _named(model(*self._inputs(batch)))
        embeddings = self._embeddings(parts)
        if not self._has_labels:
            return embeddings, None
        representation = parts.get("representation", parts["first"])
        return embeddings, Labelled(functional.normalize(representation.flatten(1).float(), dim=1), batch[-1])

    def partner_keys(self, batch: Batch) -> Tensor | None:
        """See `CoupledTask`; by the bytes of the second input, where there are two. Random views are all different."""
        inputs = self._inputs(batch)
        if self._views is not None or not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
            return None
        return _keys_of(leaves(inputs[1]))

    def _inputs(self, batch: Batch) -> Batch:
        return batch[:-1] if self._has_labels else batch

    def _embeddings(self, parts: dict[str, Tensor]) -> Embeddings:
        first, second = (functional.normalize(parts[side].float(), dim=1) for side in ("first", "second"))
        scale = parts["log_scale"].float().exp().reshape(()) if "log_scale" in parts else first.new_tensor(1.0 / self._temperature)
        bias = parts["bias"].float().reshape(()) if "bias" in parts else first.new_tensor(self._bias)
        return Embeddings(first, second, scale, bias)

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
            similarities_RB = torch.cat([similarities_RB, to_own_RB.scatter(1, rows[:, None], -torch.inf)], dim=1)
        return functional.cross_entropy(similarities_RB, rows, reduction="sum")

    @torch.no_grad()
    def coupled_metrics(
        self, embeddings: Embeddings, labelled: Labelled | None = None, references: Labelled | None = None, partners: Tensor | None = None
    ) -> dict[str, float]:
        """Loss; how often a first input's partner is the nearest, or among the five nearest, of all second inputs, or the nearest of a block.

        Second inputs that are the very same, as two images' captions may be, count once: finding any of them is right. Ties between different ones
        count against it. With labels also the accuracy of nearest neighbours.
        """
        num_samples = len(embeddings.first)
        loss = sum(float(piece) for piece in self.loss_blocks(embeddings, 0, num_samples)) / num_samples
        everything = _Gallery.of(embeddings, partners, 0, num_samples)
        rank = torch.cat([everything.ranks(embeddings, start, BLOCK) for start in range(0, num_samples, BLOCK)])
        among = self._accuracy_among
        blocks = [(start, _Gallery.of(embeddings, partners, start, start + among)) for start in range(0, num_samples, among)]
        rank_among = torch.cat([block.ranks(embeddings, start, among) for start, block in blocks])
        scores = {"recall_at_1": rank <= 1, "recall_at_5": rank <= 5, "batch_accuracy": rank_among <= 1}
        known = {} if labelled is None or references is None else {"knn_accuracy": knn_accuracy(labelled, references, self._neighbours)}
        return {**known, **{name: float(hits.double().mean()) for name, hits in scores.items()}, "loss": loss}


class _Gallery(NamedTuple):
    """The different second inputs of some samples in a row, among which partners are looked for."""

    start: int
    """Number of the first sample."""
    second: Tensor
    """(U, D) embeddings; of those that are the very same the first one's."""
    place_N: Tensor
    """(N,) which of them is each sample's partner."""

    @classmethod
    def of(cls, embeddings: Embeddings, partners: Tensor | None, start: int, stop: int) -> "_Gallery":
        """Args: partners: see `partner_keys`."""
        second = embeddings.second[start:stop]
        places = torch.arange(len(second), device=second.device)
        if partners is not None:
            different, place_N = torch.unique(partners[start:stop], return_inverse=True)
            if len(different) < len(second):
                first_U = torch.full_like(different, len(second)).scatter_reduce(0, place_N, places, "amin")
                return cls(start, second[first_U], place_N)
        return cls(start, second, places)

    def ranks(self, embeddings: Embeddings, start: int, size: int) -> Tensor:
        """Of each of `size` samples from `start` on, how many of these, its partner among them, are at least as near as its partner."""
        similarities_RU = embeddings.first[start : start + size] @ self.second.T
        partner_R = self.place_N[start - self.start :][: len(similarities_RU)]
        return (similarities_RU >= similarities_RU.gather(1, partner_R[:, None])).sum(1)


def _keys_of(tensors: Sequence[Tensor]) -> Tensor:
    """(N,) int64 that are equal where all rows of the tensors are, byte by byte; other rows share one with a chance of 2^-56."""
    rows_NB = torch.cat([tensor.reshape(len(tensor), -1).contiguous().view(torch.uint8) for tensor in tensors], dim=1)
    words_B = torch.randint(-(2**63), 2**63 - 1, (rows_NB.shape[1],), generator=torch.Generator().manual_seed(0)).to(rows_NB.device)
    keys_N = torch.zeros(len(rows_NB), dtype=torch.int64, device=rows_NB.device)
    for bytes_NB, some_B in zip(torch.split(rows_NB, KEY_BYTES, dim=1), torch.split(words_B, KEY_BYTES), strict=True):
        keys_N += (bytes_NB * some_B).sum(1)
    return keys_N


PARTS = ("first", "second", "log_scale", "bias")
"""What a model gives, in this order, or by these names."""


def _named(output: Any) -> dict[str, Any]:
    """What a model gives, by name."""
    if isinstance(output, dict):
        return output
    return dict(zip(PARTS, output, strict=False)) if isinstance(output, (tuple, list)) and len(output) <= len(PARTS) else {}


def _similarities(embeddings: Embeddings, rows: Tensor, columns: Tensor) -> Tensor:
    return rows @ columns.T * embeddings.scale + embeddings.bias


def _sigmoid_losses(similarities_RB: Tensor, rows: Tensor) -> Tensor:
    signs = torch.full_like(similarities_RB, -1.0).scatter(1, rows[:, None], 1.0)
    return -functional.logsigmoid(signs * similarities_RB).sum()
