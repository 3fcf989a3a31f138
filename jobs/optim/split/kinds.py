"""Which kind of parameter each of a model's is, by the module that holds it."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.jobs.optim.config_base import Kind

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose own parameters are normalisation parameters; those of all but the last two have one dimension."""
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


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


def _kind_in(module: nn.Module, name: str, param: nn.Parameter) -> Kind:
    if param.ndim <= 1 or name == "bias" or isinstance(module, NORMS):
        return Kind.BIAS_OR_NORM
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Kind.EMBEDDING
    if isinstance(module, _ConvNd) and (module.groups > 1 or isinstance(module, _ConvTransposeNd)):
        return Kind.MANY_MATRICES
    is_matrix = (
        (isinstance(module, (nn.Linear, _ConvNd)) and name == "weight")
        or (isinstance(module, nn.MultiheadAttention) and name.endswith("_weight"))
        or (isinstance(module, RECURRENT) and name.startswith("weight_"))
    )
    return Kind.MATRIX if is_matrix else Kind.OTHER
