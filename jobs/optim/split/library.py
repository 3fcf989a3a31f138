"""The library pytorch_optimizer, which a person installs for some optimizers (docs/decisions/049)."""

from types import ModuleType

import torch

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.optim.config_base import ParamGroups

FIELD = "optimizer.name"


def pytorch_optimizer_for(name: str) -> ModuleType:
    """The library. Args: name: of the optimizer that is asked of it. Raises: SpecError where it is not installed."""
    try:
        import pytorch_optimizer
    except ImportError:
        problem = f"{name} comes with the library pytorch_optimizer, which is not installed."
        raise SpecError(FIELD, problem, "pip install 'largebatch[optimizers]'") from None
    module: ModuleType = pytorch_optimizer
    return module


def refuse_narrow(name: str, groups: ParamGroups) -> None:
    """Raise PlanError for weights of a type in which no eigenvectors are found."""
    for param in (param for group in groups for param in group["params"]):
        if param.dtype not in (torch.float32, torch.float64):
            held = f"one of shape {tuple(param.shape)} in {str(param.dtype).removeprefix('torch.')}"
            hint = "Hold them in float32 and set precision: bfloat16, or assign them to other."
            raise PlanError(FIELD, f"{name} factors matrices in float32 or float64, and the model holds {held}.", hint)
