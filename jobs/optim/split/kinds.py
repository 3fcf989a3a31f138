"""Which kind of parameter each of a model's is, and which way its matrix lies, by the module that holds it."""

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.jobs.optim.config_base import Kind

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose own parameters are normalisation parameters; those of all but the last two have one dimension."""
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
LAYERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, *RECURRENT, nn.Embedding, nn.EmbeddingBag)
"""Modules of torch's whose weights are no vectors."""


def kinds_of(model: nn.Module, heads: Collection[str] = ()) -> dict[nn.Parameter, Kind]:
    """The kind of every parameter; what several modules hold has the kind that comes first in `Kind`.

    Args: heads: names of the weights whose layer's output is the model's: see `head_weights`.
    """
    order = list(Kind)
    kinds: dict[nn.Parameter, Kind] = dict.fromkeys((model.get_parameter(name) for name in heads), Kind.HEAD)
    for module in model.modules():
        for name, param in module.named_parameters(recurse=False):
            kinds[param] = min(kinds.get(param, Kind.OTHER), _kind_in(module, name, param), key=order.index)
    return kinds


def transposed_in(model: nn.Module) -> set[nn.Parameter]:
    """Weights that lie (in, out ...), the other way round than `nn.Linear`'s, wherever a layer holds them.

    Flattened to two dimensions and transposed, a transposed convolution's is (out * height * width, in): where its windows do not overlap that is
    the weight of the `nn.Linear` from one place to its window. What a layer also holds the usual way, as tied decoders do, lies as that one has it.
    """
    ways: dict[nn.Parameter, set[bool]] = {}
    for module in model.modules():
        is_transposed = isinstance(module, _ConvTransposeNd) or _is_transposed_linear(module)
        if is_transposed or isinstance(module, LAYERS):
            for param in module.parameters(recurse=False):
                ways.setdefault(param, set()).add(is_transposed)
    return {param for param, found in ways.items() if param.ndim > 1 and found == {True}}


def _is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, the linear layer of GPT-2, or a copy of it, of which many models have one of their own.

    By its name, and by its number of outputs, `nf`, which is the weight's last size. transformers need not be imported.
    """
    if not any(each.__name__ == "Conv1D" for each in type(module).__mro__):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return False
    num_inputs, num_outputs = weight.shape
    return num_outputs == getattr(module, "nf", None) and num_inputs == getattr(module, "nx", num_inputs)


def _kind_in(module: nn.Module, name: str, param: nn.Parameter) -> Kind:
    if param.ndim <= 1 or name == "bias" or isinstance(module, NORMS):
        return Kind.BIAS_OR_NORM
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Kind.EMBEDDING
    if isinstance(module, _ConvNd) and module.groups > 1:
        return Kind.MANY_MATRICES
    is_matrix = (
        (isinstance(module, (nn.Linear, _ConvNd)) and name == "weight")
        or (isinstance(module, nn.MultiheadAttention) and name.endswith("_weight"))
        or (isinstance(module, RECURRENT) and name.startswith("weight_"))
        or (name == "weight" and _is_transposed_linear(module))
    )
    return Kind.MATRIX if is_matrix else Kind.OTHER
