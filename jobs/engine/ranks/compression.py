"""How a bucket of gradients gets to the other ranks: as it is, in bfloat16, or as low-rank factors.

PowerSGD is Vogels et al., arXiv:1905.13727, Algorithm 1 with error feedback (Algorithm 2) and warm start:
for each rank's matrix M = G + E (n x m) with a shared start Q (m x r),

    P <- sum over ranks of M Q,  orthonormal columns;   Q <- sum over ranks of M^T P;   G' = P Q^T;   E = M - P (M^T P)^T

where the last product is the rank's own. Vectors, and matrices that the factors would not make smaller, go as they are.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from largebatch.jobs.engine.ranks.ranks import sum_together
from largebatch.jobs.spec.train_spec import ReductionSpec


class Exact:
    """Sums flat gradients over ranks in place, in their own precision.

    Args: dtype: what travels, and what the ranks' numbers are summed in; None: the gradient's own.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._running: list[tuple[dist.Work, Tensor, Tensor]] = []

    def start(self, number: int) -> None:
        """Begin the step of this number. The number of the step before: that one is repeated, and what it left for the next is forgotten."""

    def begin(self, views: list[Tensor], flat: Tensor) -> None:
        """Start with one bucket. Args: views: its gradients in their own shapes; flat: the same numbers, 1-d."""
        sent = flat if self._dtype is None else flat.to(self._dtype)
        self._running.append((dist.all_reduce(sent, async_op=True), sent, flat))

    def end(self) -> None:
        """Wait for all buckets that were begun."""
        for work, sent, flat in self._running:
            work.wait()
            if sent is not flat:
                flat.copy_(sent)
        self._running = []


class PowerSGD:
    """Sums flat gradients over ranks in place, as low-rank factors with error feedback; the interface is that of `Exact`.

    The errors are this rank's own and are not kept in checkpoints: a resumed run begins with none.

    Args: rank: columns of the factors, the paper's r.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._number: int | None = None
        self._buckets: list[tuple[list[Tensor], Tensor]] = []
        self._errors: dict[tuple[int, int], Tensor] = {}
        self._starts: dict[tuple[int, int], Tensor] = {}
        self._new_errors: dict[tuple[int, int], Tensor] = {}
        self._new_starts: dict[tuple[int, int], Tensor] = {}

    def start(self, number: int) -> None:
        """See `Exact`."""
        if number != self._number:
            self._number, self._errors, self._starts = number, self._new_errors, self._new_starts
        self._new_errors, self._new_starts = {}, {}

    def begin(self, views: list[Tensor], flat: Tensor) -> None:
        """See `Exact`; factors need all gradients, so work begins at `end`."""
        self._buckets.append((views, flat))

    def end(self) -> None:
        """See `Exact`: two reductions of factors, the first with all vectors beside it."""
        gradients = {(bucket, index): view for bucket, (views, _) in enumerate(self._buckets) for index, view in enumerate(views)}
        self._buckets = []
        if not gradients:
            return
        matrices = {key: self._with_error(key, view) for key, view in gradients.items() if self._shrinks(view)}
        vectors = [view for key, view in gradients.items() if key not in matrices]
        starts = {key: self._start(key, matrix) for key, matrix in matrices.items()}
        lefts = [matrix @ starts[key] for key, matrix in matrices.items()]
        sum_together([*lefts, *vectors])
        bases = [torch.linalg.qr(left.float())[0].to(left.dtype) for left in lefts]
        own_rights = [matrix.T @ base for matrix, base in zip(matrices.values(), bases, strict=True)]
        rights = [right.clone() for right in own_rights]
        sum_together(rights)
        for (key, matrix), base, own_right, right in zip(matrices.items(), bases, own_rights, rights, strict=True):
            self._new_errors[key] = matrix - base @ own_right.T
            self._new_starts[key] = right
            gradients[key].copy_((base @ right.T).view(gradients[key].shape))

    def _with_error(self, key: tuple[int, int], view: Tensor) -> Tensor:
        matrix = view.reshape(len(view), -1)
        return matrix + self._errors[key] if key in self._errors else matrix.clone()

    def _shrinks(self, view: Tensor) -> bool:
        if view.ndim < 2:
            return False
        rows, columns = len(view), view.numel() // len(view)
        return (rows + columns) * self._rank < rows * columns

    def _start(self, key: tuple[int, int], matrix: Tensor) -> Tensor:
        if key in self._starts:
            return self._starts[key]
        draws = torch.Generator().manual_seed(key[0] * 10_000 + key[1])
        return torch.randn(matrix.shape[1], self._rank, generator=draws).to(matrix)


Reduction = Exact | PowerSGD


def make_reduction(spec: ReductionSpec) -> Reduction:
    """The reduction that a spec asks for."""
    if spec.compression == "powersgd":
        return PowerSGD(spec.powersgd_rank)
    return Exact(torch.bfloat16 if spec.compression == "bfloat16" else None)
