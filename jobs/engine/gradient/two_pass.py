"""The gradient of a loss that looks at all samples of a global batch together, in memory for one micro-batch.

GradCache (Gao et al., arXiv:2101.06983). With e_i = f(x_i) the embeddings of all B samples, and L(e_1 ... e_B) the loss,

    dL/dw = sum_i dL/de_i de_i/dw

so a first pass without a gradient finds all e_i, the loss gives dL/de_i, and a second pass of each micro-batch has the objective
sum_i <dL/de_i, e_i>, whose gradient is the one of the whole batch. Dropout and draws of the second pass are the first's, since they belong
to samples and micro-batches; running statistics are put back after the first, and so move once. A rank's first micro-batch comes last in the first
pass and keeps its graph for the second, which begins with it, so that it is passed once: of k micro-batches 2k - 1 passes are made, and no more
than one's activations are ever held. A batch that one process takes as one micro-batch needs none of it: its loss is the whole batch's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.engine.gradient.share import Share
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree
from largebatch.jobs.tasks.contrastive import CoupledTask, Embeddings


def embedding_objective(task: CoupledTask, share: Share, forward: Callable[..., Any], keeps_first: bool) -> "EmbeddingObjective | None":
    """The first pass, and the loss; every rank takes part.

    Args: keeps_first: whether a rank's first micro-batch is passed once; where more than the gradient is taken from its pass, it is passed again.
    Returns: None where something went wrong on any rank, which the share of one notes.
    """
    own, buffers = list[Embeddings](), share.state.buffers
    kept = share.micro_batches[:1] if keeps_first else []

    def embed(micro_batch: Slice, batch: Tree) -> Embeddings:
        with share.passing(micro_batch):
            embeddings = task.embed(forward, batch)
            buffers.forward_pass.end()
        return embeddings

    with share.noting():
        batches = [share.read(micro_batch) for micro_batch in kept if share.is_sound]  # samples are read in their order
        with torch.no_grad():
            own += [embed(micro_batch, share.read_for_two_passes(micro_batch)) for micro_batch in share.micro_batches[len(kept) :] if share.is_sound]
        buffers.put_back()  # statistics move by the second pass
        buffers.begin_step()
        own[:0] = [embed(micro_batch, batch) for micro_batch, batch in zip(kept, batches, strict=False)]
    objective = None
    if not share.state.ranks.sum_numbers(float(not share.is_sound))[0]:
        with share.noting():
            objective = EmbeddingObjective(task, forward, share.state.ranks, share.step, own, keeps_first)
    return objective


class EmbeddingObjective:
    """The objective of the second pass: each sample's embeddings times the loss's gradient with respect to them.

    Args:
        own: this rank's embeddings, of its micro-batches in order; none where it has no samples.
        keeps_first: whether the first micro-batch's have their graph, and it is not passed again.
    """

    def __init__(self, task: CoupledTask, forward: Callable[..., Any], ranks: Ranks, step: StepPlan, own: Sequence[Embeddings],
                 keeps_first: bool) -> None:  # fmt: skip
        self._task, self._forward, self._num_samples = task, forward, step.samples.size
        self._kept = own[0] if keeps_first and own else None
        share = step.share(ranks.rank)
        start = share.start - step.samples.start
        detached = [Embeddings(*(tensor.detach() for tensor in each)) for each in own]
        everyones = gathered(ranks, detached, [step.share(rank).size for rank in range(step.world_size)])
        leaves = Embeddings(*(tensor.detach().requires_grad_() for tensor in everyones))
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for piece in task.loss_blocks(leaves, start, start + share.size):
            (piece / self._num_samples).backward()  # type: ignore[no-untyped-call]
            self.loss_sum += piece.detach()
        first, second, scale, bias = (ranks.sum(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad) for leaf in leaves)
        self._gradients = Embeddings(first[start : start + share.size], second[start : start + share.size], scale, bias)
        self._begin = share.start

    def of(self, batch: Tree, micro_batch: Slice) -> Tensor:
        """See `Objective`."""
        return self._beginning(self._task.embed(self._forward, batch), micro_batch)

    def of_passed(self, micro_batch: Slice) -> Tensor | None:
        """See `Objective`."""
        kept, self._kept = self._kept, None
        return None if kept is None else self._beginning(kept, micro_batch)

    def _beginning(self, embeddings: Embeddings, micro_batch: Slice) -> Tensor:
        """Scale and bias, which all samples share, get their gradient in parts as large as the micro-batches."""
        rows = slice(micro_batch.start - self._begin, micro_batch.stop - self._begin)
        per_sample = (embeddings.first * self._gradients.first[rows]).sum() + (embeddings.second * self._gradients.second[rows]).sum()
        shared = embeddings.scale * self._gradients.scale + embeddings.bias * self._gradients.bias
        return per_sample + shared * (micro_batch.size / self._num_samples)


def gathered(ranks: Ranks, own: Sequence[Sequence[Tensor]], sizes: Sequence[int]) -> list[Tensor]:
    """All ranks' rows of some tensors, in the ranks' order; of a 0-d tensor, which is the same on all, the first one's.

    Args: own: of this rank's micro-batches in order; sizes: how many rows each rank has.
    """
    if ranks.world_size == 1:
        return [torch.cat(pieces) if pieces[0].ndim else pieces[0] for pieces in map(list, zip(*own, strict=True))]
    forms = [(each.shape[1:], each.dtype, None if each.ndim else float(each)) for each in own[0]] if own else None
    start, stop = sum(sizes[: ranks.rank]), sum(sizes[: ranks.rank + 1])
    tensors = []
    for number, (shape, dtype, shared) in enumerate(next(filter(None, ranks.gathered(forms)))):
        if shared is not None:
            tensors.append(torch.tensor(shared, dtype=dtype, device=ranks.device))
            continue
        whole = torch.zeros((sum(sizes), *shape), dtype=dtype, device=ranks.device)
        if own:
            whole[start:stop] = torch.cat([pieces[number] for pieces in own])
        tensors.append(ranks.sum(whole))  # every other rank's rows are zeros, so the sum is exact
    return tensors
