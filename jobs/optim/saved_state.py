"""An optimizer's state on its way back from a checkpoint, by the names of the parameters and in the groups that the run began with.

torch keeps the state by number alone, in the order of the groups. A person's code may name the same parameters in another
order since, of the same shapes even; and which of them are "biases and norms" may be decided otherwise by a later version.
"""

from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.errors import PlanError


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in its own order; a parameter under two names has the first.

    Raises: PlanError if the model holds another parameter in the place of one of them, or one that nothing updates.
    """
    names = {param: name for name, param in model.named_parameters()}
    params = [param for param_group in optimizer.param_groups for param in param_group["params"]]
    num_replaced = sum(param not in names for param in params)
    if num_replaced:
        raise PlanError(
            "model",
            f"{num_replaced} of the {len(params)} parameters that the optimizer updates are no longer in the model, which has replaced them since.",
            "Change a parameter's numbers in place, under torch.no_grad().",
        )
    updated = set(params)
    unknown = [name for param, name in names.items() if param.requires_grad and param not in updated]
    if unknown:
        raise PlanError(
            "model",
            f"its parameter {unknown[0]} asks for a gradient only since training began: no optimizer updates it.",
            "Make all parameters, and let those that train ask for a gradient (requires_grad), when the model is built.",
        )
    return [names[param] for param in params]


def load_optimizer(optimizer: Optimizer, model: nn.Module, saved: dict[str, Any], names: list[str] | None) -> None:
    """Take over what `optimizer.state_dict()` gave.

    Args: names: what `parameter_names` gave then; None: of a version that did not save them.
    Raises: ValueError if the state is not that of these parameters.
    """
    own = set(parameter_names(model, optimizer))
    trained = {name: param for name, param in model.named_parameters() if name in own}
    if names is None:  # such versions told weights from the others by their dimensions alone
        names = sorted(trained, key=lambda name: trained[name].ndim <= 1)
    num_saved = sum(len(param_group["params"]) for param_group in saved["param_groups"])
    unlike = sorted(set(names) ^ set(trained))
    if unlike:
        raise ValueError(f"{unlike[0]} is trained {'here and not there' if unlike[0] in trained else 'there and not here'}")
    if num_saved != len(names):
        raise ValueError(f"it trains {num_saved} parameters, this model {len(names)}")
    for index, values in saved["state"].items():
        param, name = trained[names[index]], names[index]
        shapes = {value.shape for value in _tensors_in(list(values.values())) if value.ndim and not _is_factor(value, param)}
        if not shapes <= {param.shape}:
            raise ValueError(f"the optimizer's state of {name} has the shape {tuple(shapes.pop())}, the parameter {tuple(param.shape)}")
    params = iter(trained[name] for name in names)
    optimizer.param_groups = [{**param_group, "params": list(islice(params, len(param_group["params"])))} for param_group in saved["param_groups"]]
    optimizer.load_state_dict(saved)
    _put_state_where_fresh_is(optimizer, saved)


def _tensors_in(values: list[Any]) -> list[Tensor]:
    """The tensors of a parameter's state, also those of its lists."""
    return [tensor for value in values for tensor in (_tensors_in(value) if isinstance(value, list) else [value]) if isinstance(tensor, Tensor)]


def _is_factor(value: Tensor, param: Tensor) -> bool:
    """Whether a state holds a number for each row or column, say, of its parameter, as Adafactor's does, or for each two of them, as Shampoo's."""
    by_one = value.ndim == param.ndim and all(size in (1, own) for size, own in zip(value.shape, param.shape, strict=True))
    return by_one or (value.ndim == 2 and value.shape[0] == value.shape[1] and value.shape[0] in param.shape)


def _put_state_where_fresh_is(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put loaded state on its parameter's device, in the precision in which it was saved, as every optimizer here makes it.

    torch casts loaded state to the parameter's dtype, though float32 moments of narrower parameters must stay float32, and
    leaves `step` where the file was read to, on the CPU, unless a group says "fused".
    """
    params = [param for param_group in optimizer.param_groups for param in param_group["params"]]
    for index, values in saved["state"].items():
        param = params[index]
        for key, value in values.items():
            current = optimizer.state[param][key]
            if isinstance(value, Tensor) and (current.dtype, current.device) != (value.dtype, param.device):
                optimizer.state[param][key] = value.to(param.device)


def refuse_other_precision(model: nn.Module, saved: dict[str, Any]) -> None:
    """Raise ValueError if a parameter is held in another precision than in a saved state of the model: its moments would be too."""
    for name, param in model.named_parameters():
        if name in saved and saved[name].dtype != param.dtype:
            was, now = (str(dtype).removeprefix("torch.") for dtype in (saved[name].dtype, param.dtype))
            raise ValueError(f"{name} was {was} and is {now}")
