"""What a model saves of itself: tensors, and what a person's own modules add to them (`get_extra_state`)."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.snapshot import as_bytes, restored

RESUME = "a resume would not go on from where the run stood."


def refuse_unsaveable(model: nn.Module) -> None:
    """Raise PlanError if a checkpoint of this model could not be written, read and taken over again."""
    try:
        state = model.state_dict()
    except ANYTHING as error:  # a person's own model may raise anything
        raise PlanError("model", f"its state_dict fails: {described(error)}.", "Mend it: checkpoints are made of it.") from error
    unsaveable = what_is_unsaveable(state)
    if unsaveable:
        raise PlanError("model", unsaveable, "Return numbers, text, tensors, and lists and dicts of them from get_extra_state.")
    params = {name: id(param) for name, param in model.named_parameters()}
    with restored(model) as before:
        try:
            kept = _through_a_checkpoint(dict(state))
            _disturb(model, state)
            model.load_state_dict(kept)
            lost = [*before.changed_weights(), *before.changed_buffers()]
            lost += [name for name, param in model.named_parameters() if params.get(name) != id(param)]
        except ANYTHING as error:
            raise PlanError(
                "model", f"cannot take its own state_dict over: {described(error)}.", "Mend load_state_dict or set_extra_state: a resume calls them."
            ) from error
    _refuse_lost(model, lost, kept)


def _through_a_checkpoint(value: Any) -> Any:
    """Something as a resume would read it."""
    return torch.load(io.BytesIO(as_bytes(value)), map_location="cpu", weights_only=True)


@torch.no_grad()
def _disturb(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Other values in all that trains and in buffers that are saved, so that what does not come back shows: the frozen may come from the build."""
    saved = {value.data_ptr() for value in state.values() if isinstance(value, Tensor)}
    buffers = [buffer for buffer in model.buffers() if buffer.data_ptr() in saved]
    for tensor in (*(param for param in model.parameters() if param.requires_grad), *buffers):
        tensor.copy_(tensor == 0)


def _refuse_lost(model: nn.Module, lost: list[str], kept: Mapping[str, Any]) -> None:
    """Raise PlanError for the first parameter or buffer that a resume would not get back as it was."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in (*lost, *dict(model.named_parameters())):
        saved, tensor = kept.get(name), tensors.get(name)
        if isinstance(saved, Tensor) and tensor is not None and saved.dtype != tensor.dtype:
            kinds = [str(each.dtype).removeprefix("torch.") for each in (saved, tensor)]
            raise PlanError("model", f"its state_dict gives {name} as {kinds[0]}, and it is {kinds[1]}: {RESUME}", "Save it in its own type.")
    if lost:
        raise PlanError(
            "model", f"{lost[0]} does not come back from its own state_dict by load_state_dict: {RESUME}", "Save and load all weights and buffers."
        )


def what_is_unsaveable(state: Mapping[str, Any]) -> str:
    """A sentence about what a checkpoint could not keep of a state_dict: anything but tensors and plain data; empty if all is well."""
    for name, value in _added(state).items():
        try:
            _through_a_checkpoint(value)
        except Exception as error:  # pickling anything raises anything
            return f"{name} in its state is a {type(value).__name__} with what a checkpoint cannot keep ({type(error).__name__})."
    return ""


def take_from_first(model: nn.Module, ranks: Ranks) -> None:
    """Make all ranks' models rank 0's; their parameters and buffers are alike in shape."""
    if ranks.world_size == 1:
        return
    added = ranks.from_first(lambda: _added(model.state_dict()))
    if added and not ranks.is_first:
        model.load_state_dict(added, strict=False)
    ranks.take_from_first([tensor.detach() for tensor in (*model.parameters(), *model.buffers())])


def digest(model: nn.Module) -> str:
    """A fingerprint of all that the model saves, bit by bit."""
    sha256 = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha256.update(name.encode())
        _update(sha256, value)
    return sha256.hexdigest()


def _update(sha256: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        sha256.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=repr):
            sha256.update(repr(name).encode())
            _update(sha256, value[name])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _update(sha256, item)
    else:
        sha256.update(repr(value).encode())


def _added(state: Mapping[str, Any]) -> dict[str, Any]:
    """What is no plain tensor."""
    return {name: value for name, value in state.items() if type(value) not in (Tensor, nn.Parameter)}
