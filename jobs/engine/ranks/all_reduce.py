"""The gradient of one step's batch, summed over micro-batches and ranks.

A process alone adds each micro-batch's gradient up beside `.grad`. With several ranks `.grad` is a view of a flat
bucket; during the last micro-batch's backward pass every bucket is reduced as soon as its gradients are there, so
the network works while the pass goes on: one reduction per optimizer step, whatever the accumulation. What is
reduced are sums that were divided by the global batch before, so ranks may hold different numbers of samples.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.ranks.compression import Reduction, make_reduction
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.scalars import Scalar, scalar
from largebatch.jobs.errors import FaultError
from largebatch.jobs.optim.tensors import dense_like
from largebatch.jobs.spec.train_spec import ReductionSpec

LARGEST_BUCKET = 25 * 2**20
SMALLEST_BUCKET = 2**20
"""Bytes. Within these bounds the gradient comes in four buckets: small enough to begin early, few enough to be cheap."""
SMALL = 4096
"""Numbers in a gradient that is copied together with others before its norm is taken."""


class GradientSum(Protocol):
    """Adds up one step's gradient; `start`, then for each micro-batch `before` and `after`, then `finish`."""

    params: list[nn.Parameter]
    """All that are trained."""
    squared_norm: "SquaredNorm"
    """Of their gradients."""

    def start(self) -> None:
        """Begin a step: nothing is summed yet."""
        ...

    def before(self, is_last: bool) -> None:
        """A backward pass is about to begin; is_last: the only or last one of this rank in this step."""
        ...

    def after(self, weight: float, measures: bool) -> None:
        """It has ended. Args: weight: global batch over micro-batch; measures: whether its norm is wanted."""
        ...

    def finish(self, weight: float) -> tuple[Scalar, Tensor]:
        """Leave the sum in `.grad`.

        Args: weight: global batch over this rank's samples; 0 without any.
        Returns: (this rank's share of A = sum_i (b_i / B) |g_i|^2; which parameters were reached, 0 or 1
            each, or nothing where `.grad` tells)
        Raises: FaultError where memory for the reduction itself runs out; other ranks cannot go on without this one.
        """
        ...

    def leave_out(self, reached: list[float]) -> None:
        """Take the gradient from parameters that no rank reached: an optimizer must not decay them either."""
        ...

    def keep(self) -> None:
        """The step counts; a step that failed is repeated without this."""
        ...


class LocalSum:
    """The sum within this process.

    Each micro-batch's gradient arrives in a fresh `.grad` and is added up beside it: no more arithmetic than
    autograd's own adding, and its norm can be taken on the way. That of a single micro-batch stays where it arrives.
    """

    def __init__(self, model: nn.Module) -> None:
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.squared_norm = SquaredNorm(self.params)
        self._nothing = torch.empty(0, dtype=torch.float64, device=self.params[0].device)
        self.start()

    def start(self) -> None:
        """See `GradientSum`."""
        self._total: list[Tensor | None] | None = None
        self._mean_squared_norm: Scalar = 0.0
        self._clear()

    def _clear(self) -> None:
        for param in self.params:
            param.grad = None

    def before(self, is_last: bool) -> None:
        """See `GradientSum`."""
        self._is_last = is_last
        if self._total is not None:
            self._clear()

    def after(self, weight: float, measures: bool) -> None:
        """See `GradientSum`."""
        if measures:  # |g_i|^2 b_i / B, where .grad holds g_i b_i / B
            self._mean_squared_norm = self._mean_squared_norm + self.squared_norm() * weight
        if self._total is not None or not self._is_last:
            gradients = [param.grad for param in self.params]
            self._total = gradients if self._total is None else self._sum(self._total, gradients)

    def _sum(self, totals: list[Tensor | None], gradients: list[Tensor | None]) -> list[Tensor | None]:
        """A parameter that some micro-batch did not reach counts as zero there."""
        both = [(t, g) for t, g in zip(totals, gradients, strict=True) if t is not None and g is not None]
        if both:
            torch._foreach_add_([t for t, _ in both], [g for _, g in both])
        return [gradient if total is None else total for total, gradient in zip(totals, gradients, strict=True)]

    def finish(self, weight: float) -> tuple[Scalar, Tensor]:
        """See `GradientSum`; a parameter that was not reached has no gradient."""
        if self._total is not None:
            for param, gradient in zip(self.params, self._total, strict=True):
                param.grad = gradient
        return self._mean_squared_norm, self._nothing

    def leave_out(self, reached: list[float]) -> None:
        """See `GradientSum`; such a parameter has no gradient already."""

    def keep(self) -> None:
        """See `GradientSum`; nothing is carried over."""


class Bucket:
    """Gradients of some parameters in one flat tensor."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.flat = torch.zeros(sum(param.numel() for param in params), dtype=params[0].dtype, device=params[0].device)
        self.views = []
        start = 0
        for param in params:
            # A gradient laid out as its parameter (channels last, transposed, a slice without its gaps) spares every later step a reordering.
            self.views.append(self.flat.as_strided(param.size(), dense_like(param).stride(), start))
            start += param.numel()
        self.missing = len(params)


class ReducedSum:
    """The sum over all ranks, reduced bucket by bucket while the last backward pass goes on.

    Buckets go out in one fixed order, the reverse of the parameters': collectives must meet on all ranks, and
    the same order gives the same bits in every repetition. A rank without samples, or one that failed, takes
    part with what it has; whether the sum counts is agreed on afterwards.
    """

    def __init__(self, model: nn.Module, reduction: Reduction) -> None:
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.squared_norm = SquaredNorm(self.params)
        self._reduction = reduction
        self._buckets = [Bucket(params) for params in _bucketed(self.params)]
        self._home = {param: bucket for bucket in self._buckets for param in bucket.params}
        self._reached: set[nn.Parameter] = set()
        self._is_last = False
        self._num_sent = len(self._buckets)
        self._own_norms: list[Tensor] = []
        for param in self.params:
            param.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """See `GradientSum`."""
        self._num_sent = 0
        self._is_last = False
        self._own_norms = []
        self._reached.clear()
        for bucket in self._buckets:
            bucket.missing = len(bucket.params)
            bucket.flat.zero_()
            for param, view in zip(bucket.params, bucket.views, strict=True):
                param.grad = view

    def before(self, is_last: bool) -> None:
        """See `GradientSum`."""
        self._is_last = is_last

    def after(self, weight: float, measures: bool) -> None:
        """See `GradientSum`; norms are taken once per rank, when its sum is whole."""

    def _arrived(self, param: Tensor) -> None:
        """Autograd has added to this parameter's gradient."""
        if self._num_sent == len(self._buckets):
            return  # a pass outside a step, such as a kernel's warm-up
        assert isinstance(param, nn.Parameter)
        self._reached.add(param)
        if self._is_last:
            self._home[param].missing -= 1
            self._send(self._num_ready())

    def _num_ready(self) -> int:
        ready = self._num_sent
        while ready < len(self._buckets) and self._buckets[ready].missing == 0:
            ready += 1
        return ready

    @torch.no_grad()
    def _send(self, stop: int) -> None:
        """Reduce the buckets up to number `stop`, in order, without waiting."""
        while self._num_sent < stop:
            bucket = self._buckets[self._num_sent]
            norm = flat_squared_norm(bucket.flat)
            self._reduction.begin(bucket.views, bucket.flat)
            # Counted last: where memory runs out before, `finish` sends this bucket again, for the other ranks wait for it.
            self._own_norms.append(norm)
            self._num_sent += 1

    @torch.no_grad()
    def finish(self, weight: float) -> tuple[Scalar, Tensor]:
        """See `GradientSum`; parameters that some rank reached have a gradient on every rank."""
        try:
            self._send(len(self._buckets))
            self._reduction.end()
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            raise FaultError(
                "batch.micro_batch_size",
                "memory ran out while the workers' gradients were summed, where none can repeat the step alone.",
                "Set a smaller batch.micro_batch_size, or reduction.compression to none.",
            ) from error
        device = self.params[0].device
        reached = torch.tensor([param in self._reached for param in self.params], dtype=torch.float64, device=device)
        return scalar(torch.stack(self._own_norms).sum()) * weight, reached

    def leave_out(self, reached: list[float]) -> None:
        """See `GradientSum`."""
        for param, count in zip(self.params, reached, strict=True):
            if not count:
                param.grad = None

    def keep(self) -> None:
        """See `GradientSum`."""
        self._reduction.keep()


def gradient_sum(model: nn.Module, ranks: Ranks, spec: ReductionSpec) -> LocalSum | ReducedSum:
    """The one that fits the number of ranks."""
    return LocalSum(model) if ranks.world_size == 1 else ReducedSum(model, make_reduction(spec))


class SquaredNorm:
    """Squared L2 norm of all parameters' gradients together, taken in at least float32; 0 without any."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self._params = params
        self._by_blas = all(param.is_cpu and param.dtype == torch.float32 for param in params)
        self._large = [param for param in params if param.numel() > SMALL]
        self._small = [param for param in params if param.numel() <= SMALL]

    def __call__(self) -> Scalar:
        """As the gradients are now."""
        if self._by_blas:
            # Reading the gradients once more costs 3 % of a small step; BLAS reads them at half the cost of a norm.
            vectors, small = _flat_gradients(self._large), _flat_gradients(self._small)
            if small:
                vectors.append(torch.cat(small))  # a call costs more than reading a bias
            return sum([torch.dot(vector, vector).item() for vector in vectors])
        gradients = [gradient for param in self._params if (gradient := param.grad) is not None]
        if not gradients:  # a rank without samples that steps alone
            return 0.0
        dtype = torch.float64 if any(gradient.dtype == torch.float64 for gradient in gradients) else torch.float32
        return scalar(torch.stack(torch._foreach_norm(gradients, 2, dtype=dtype)).square().sum())


def _flat_gradients(params: list[nn.Parameter]) -> list[Tensor]:
    gradients = [gradient for param in params if (gradient := param.grad) is not None]
    return [gradient if gradient.ndim == 1 else gradient.reshape(-1) for gradient in gradients]


def flat_squared_norm(flat: Tensor) -> Tensor:
    """Squared L2 norm of one flat gradient, 0-d, at least float32."""
    wide = flat if flat.dtype == torch.float64 else flat.float()
    return torch.dot(wide, wide)


def _bucketed(params: list[nn.Parameter]) -> list[list[nn.Parameter]]:
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
