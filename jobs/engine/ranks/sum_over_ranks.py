"""A step's gradient summed over all ranks, bucket by bucket while the last backward pass goes on.

`.grad` is a view of a flat bucket. Each bucket is reduced as soon as its gradients are there, so the network works
while the pass goes on: one reduction per optimizer step, whatever the accumulation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.ranks.compression import Reduction
from largebatch.jobs.engine.ranks.gradient_norm import SquaredNorm, flat_squared_norm
from largebatch.jobs.errors import FaultError
from largebatch.jobs.optim.tensors import dense_like

LARGEST_BUCKET = 25 * 2**20
SMALLEST_BUCKET = 2**20
"""Bytes. Within these bounds the gradient comes in four buckets: small enough to begin early, few enough to be cheap."""


class Bucket:
    """Gradients of some parameters in one flat tensor, and their sum, which is float32 at the least: bfloat16 loses what is 2^-9 of it."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.num_missing = len(params)
        self._flat = torch.zeros(sum(param.numel() for param in params), dtype=params[0].dtype, device=params[0].device)
        self._views = self._cut(self._flat)
        self.sum = self._flat
        """Of this rank's micro-batches when all of them are there, then of all ranks."""

    def start(self) -> None:
        """Begin a step: zeros, where autograd will add to them."""
        self.num_missing = len(self.params)
        self._flat.zero_()
        self.sum = self._flat
        for param, view in zip(self.params, self._views, strict=True):
            param.grad = view

    def end_micro_batch(self) -> None:
        """Move what is narrower than float32 from `.grad` to the sum; wider gradients lie there already."""
        if self._flat.dtype.itemsize < 4:
            self.sum = self._flat.float() if self.sum is self._flat else self.sum.add_(self._flat)
            self._flat.zero_()

    def sum_views(self) -> list[Tensor]:
        """The sum in the parameters' shapes."""
        return self._views if self.sum is self._flat else self._cut(self.sum)

    def finish(self) -> None:
        """Leave the sum in `.grad`."""
        if self.sum is not self._flat:
            self._flat.copy_(self.sum)

    def view_of(self, param: nn.Parameter) -> Tensor:
        """Where a parameter's gradient lies."""
        return next(view for own, view in zip(self.params, self._views, strict=True) if own is param)

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """A gradient laid out as its parameter (channels last, transposed, a slice without its gaps) spares every later step a reordering."""
        starts = accumulate((param.numel() for param in self.params), initial=0)
        return [flat.as_strided(param.size(), dense_like(param).stride(), start) for param, start in zip(self.params, starts, strict=False)]


class SumOverRanks:
    """Sums over all ranks; the interface is that of `SumInProcess`.

    What is summed was divided by the total weight before, so ranks may hold different numbers of samples. Buckets go
    out in one fixed order, the reverse of the parameters': collectives must meet on all ranks, and the same order
    gives the same bits in every repetition. A rank without samples, or one that failed, takes part with what it has.
    """

    def __init__(self, params: list[nn.Parameter], squared_norm: SquaredNorm, reduction: Reduction) -> None:
        self._params = params
        self.squared_norm = squared_norm
        self.mean_squared_norm = torch.zeros((), dtype=torch.float64, device=params[0].device)
        self.reached = torch.empty(0)
        self._reduction = reduction
        self._buckets = [Bucket(params) for params in bucketed(params)]
        self._bucket_of = {param: bucket for bucket in self._buckets for param in bucket.params}
        self._reached: set[nn.Parameter] = set()
        self._is_last = False
        self._num_sent = len(self._buckets)
        self._own_norms: list[Tensor] = []
        # A person's hook on what has been added up gets each micro-batch's gradient alone, as in one process: it may scale it, or put another there.
        self._hooked = {param: self._bucket_of[param].view_of(param) for param in params if getattr(param, "_post_accumulate_grad_hooks", None)}
        for param in params:
            param.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def start(self, number: int, total_weight: float, num_micro_batches: int) -> None:
        """Begin a step: nothing is summed yet."""
        self._total_weight, self._own_weight, self._num_left = total_weight, 0.0, num_micro_batches
        self._num_sent, self._is_last, self._own_norms = 0, False, []
        self._reached.clear()
        self._reduction.start(number)
        for bucket in self._buckets:
            bucket.start()
        for param in self._hooked:
            param.grad = None

    @contextmanager
    def micro_batch(self, weight: float) -> Iterator[None]:
        """See `SumInProcess`; norms are taken once per rank, when its sum is whole."""
        self._is_last = self._num_left == 1
        yield
        self._num_left -= 1
        self._own_weight += weight
        if self._num_left:
            for bucket in self._buckets:
                bucket.end_micro_batch()

    @torch.no_grad()
    def _arrived(self, param: Tensor) -> None:
        """Autograd has added to this parameter's gradient."""
        if self._num_sent == len(self._buckets):
            return  # a pass outside a step, such as a kernel's warm-up
        assert isinstance(param, nn.Parameter)
        self._reached.add(param)
        if param in self._hooked and param.grad is not None:
            self._hooked[param].add_(param.grad)
            param.grad = None
        if self._is_last:
            self._bucket_of[param].num_missing -= 1
            self._send()

    @torch.no_grad()
    def _send(self, waits_for_passes: bool = True) -> None:
        """Reduce the next buckets, in order, without waiting for it; those alone that have all their gradients, as long as passes go on."""
        while self._num_sent < len(self._buckets):
            bucket = self._buckets[self._num_sent]
            if waits_for_passes and bucket.num_missing:
                return
            bucket.end_micro_batch()
            norm = flat_squared_norm(bucket.sum)
            self._reduction.begin(bucket.sum_views(), bucket.sum)
            # Counted last: where memory runs out before, `finish` sends this bucket again, for the other ranks wait for it.
            self._own_norms.append(norm)
            self._num_sent += 1

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the sum in `.grad`, of parameters that some rank has reached on every rank.

        Raises: FaultError where memory for the reduction itself runs out; other ranks cannot go on without this one.
        """
        try:
            self._send(waits_for_passes=False)
            self._reduction.end()
            for bucket in self._buckets:
                bucket.finish()
            for param, view in self._hooked.items():
                param.grad = view
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            raise FaultError(
                "batch.micro_batch_size",
                "memory ran out while the workers' gradients were summed, where none can repeat the step alone.",
                "Set a smaller batch.micro_batch_size, or reduction.compression to none.",
            ) from error
        device = self._params[0].device
        self.reached = torch.tensor([param in self._reached for param in self._params], dtype=torch.float64, device=device)
        own_share = self._total_weight / self._own_weight if self._own_weight else 0.0
        self.mean_squared_norm = torch.stack(self._own_norms).sum().double() * own_share

    def leave_out(self, reached: list[float]) -> None:
        """See `SumInProcess`."""
        for param, count in zip(self._params, reached, strict=True):
            if not count:
                param.grad = None


def bucketed(params: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters of one dtype in the order in which backward reaches them, roughly a quarter of the bytes in each bucket."""
    total = sum(param.nbytes for param in params)
    limit = min(max(total // 4, SMALLEST_BUCKET), LARGEST_BUCKET)
    buckets: list[list[nn.Parameter]] = []
    filled = 0
    for param in reversed(params):
        if not buckets or filled + param.nbytes > limit or buckets[-1][0].dtype != param.dtype:
            buckets.append([])
            filled = 0
        buckets[-1].append(param)
        filled += param.nbytes
    return buckets
