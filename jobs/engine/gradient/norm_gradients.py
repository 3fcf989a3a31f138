"""Each sample's own gradient of the norms' scales and shifts, and what they say of the gradient's noise.

A layer norm or RMS norm gives y = scale * normalised(x) + shift, so that with dL/dy in hand sample i's gradient is

    dL/dscale_i = sum_t normalised(x_it) dL/dy_it,    dL/dshift_i = sum_t dL/dy_it

for little beside the backward pass. That these few parameters tell of the whole gradient's noise is Gray et al.'s finding
(arXiv:2411.00999). Letters: N samples of a micro-batch, T positions of each in the norm's input, W numbers of a parameter.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.engine.gradient.activation_checkpointing import Block
from largebatch.jobs.errors import PlanError
from largebatch.jobs.tasks.outputs import wide

FIELD = "gradient.noise_from"
HINT = "Set gradient.noise_from=all."
Gradients = dict[nn.Parameter, Tensor]
"""(N, W) of each parameter that was reached, in float32 at the least."""


def layer_norms(model: nn.Module) -> list[nn.LayerNorm | nn.RMSNorm]:
    """The layer norms and RMS norms of a model that train something, and that run as torch's do."""
    norms = [module for module in model.modules() if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and trained(module)]
    return [norm for norm in norms if _own_class(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)]


def _own_class(norm: nn.Module) -> Any:
    """Its class before activation checkpointing, which hands in and out what it did before."""
    return next(kind for kind in type(norm).__mro__ if not issubclass(kind, Block))


def trained(norm: nn.Module) -> dict[str, nn.Parameter]:
    """A norm's own parameters that train, by name."""
    return {name: param for name, param in norm.named_parameters(recurse=False) if param.requires_grad}


@contextmanager
def sample_gradients(norms: Sequence[nn.LayerNorm | nn.RMSNorm], num_samples: int) -> Iterator[Gradients]:
    """Context of a forward and a backward pass of some samples; gives what is whole at its end, runs of one norm added up.

    Dimension 0 of a norm's input must be the samples, or the samples times something in their order.
    Raises: PlanError, out of the forward pass, for an input that is neither.
    """
    gradients: Gradients = {}

    def ran(norm: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        if not output.requires_grad:
            return
        inputs = (arguments[0] if arguments else named["input"]).detach()
        if inputs.shape[0] % num_samples:
            problem = f"a {type(norm).__name__} takes {tuple(inputs.shape)} for {num_samples} samples: which rows are of which sample cannot be told."
            raise PlanError(FIELD, problem, HINT)
        output.register_hook(lambda arriving: arrived(norm, inputs, arriving))  # type: ignore[no-untyped-call]

    def arrived(norm: nn.Module, inputs: Tensor, arriving: Tensor) -> None:
        arriving = wide(arriving)
        for name, param in trained(norm).items():
            parts = arriving * _normalised(norm, inputs) if name == "weight" else arriving
            sums_NW = parts.reshape(num_samples, -1, param.numel()).sum(1)
            gradients[param] = gradients[param] + sums_NW if param in gradients else sums_NW

    with ExitStack() as hooks:
        for norm in norms:
            hooks.enter_context(norm.register_forward_hook(ran, with_kwargs=True))
        yield gradients


def _normalised(norm: nn.Module, inputs: Tensor) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        return functional.layer_norm(wide(inputs), norm.normalized_shape, eps=norm.eps)
    assert isinstance(norm, nn.RMSNorm)
    eps = torch.finfo(inputs.dtype).eps if norm.eps is None else norm.eps
    return functional.rms_norm(wide(inputs), list(norm.normalized_shape), eps=eps)


class NormNoise:
    """One rank's part of a step's `SampleSums`; squares are multiplied out, so that one pass is enough.

    Args: total_weight: of the whole step, by which the loss was divided.
    """

    def __init__(self, norms: Sequence[nn.LayerNorm | nn.RMSNorm], total_weight: float) -> None:
        self._norms, self._total_weight = norms, total_weight
        self._params = list(dict.fromkeys(param for norm in norms for param in trained(norm).values()))
        zero = torch.zeros((), dtype=torch.float64, device=self._params[0].device)
        self._squares = self._spread_shares = zero
        self._weighted: Gradients = {}

    @contextmanager
    def micro_batch(self, weights_N: Tensor) -> Iterator[None]:
        """A context for one micro-batch's forward and backward pass. Args: weights_N: of its samples, float64, on the device."""
        with sample_gradients(self._norms, len(weights_N)) as gradients:
            yield
        shares_N = weights_N / self._total_weight
        factors_N = torch.where(shares_N < 0.5, 1 / (1 - 2 * shares_N), torch.inf)
        self._spread_shares = self._spread_shares + (factors_N * shares_N.square()).sum()
        for param, gradients_NW in gradients.items():
            gradients_NW = gradients_NW.double()
            self._squares = self._squares + (factors_N * gradients_NW.square().sum(1)).sum()
            weighted = (factors_N * shares_N) @ gradients_NW
            self._weighted[param] = self._weighted[param] + weighted if param in self._weighted else weighted

    def sums(self) -> Tensor:
        """The numbers of `SampleSums`, now that S is in `.grad`: (3,) float64. All but |S|^2, which is the same on every rank, add up over ranks."""
        crossed = self._squares * 0
        for param, weighted in self._weighted.items():
            crossed = crossed + weighted @ _flat(param)
        squared_norm = torch.stack([_flat(param).square().sum() for param in self._params]).sum()
        return torch.stack([self._squares - 2 * crossed + self._spread_shares * squared_norm, self._spread_shares, squared_norm])


def _flat(param: nn.Parameter) -> Tensor:
    gradient = torch.zeros_like(param) if param.grad is None else param.grad
    return gradient.reshape(-1).double()
