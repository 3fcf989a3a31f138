"""What a model begins with beside fresh weights: those of a file, and parameters that stay as they are."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.models.weights import place, read_weights
from largebatch.jobs.optim.parameter_groups import groups_in_words, listed
from largebatch.jobs.samples.trees import dtype_name
from largebatch.jobs.spec.train_spec import TrainSpec


def begin_with(model: nn.Module, spec: TrainSpec, data_dir: Path) -> tuple[str, ...]:
    """Give a whole model what the spec says that it begins with. Returns: notices, of the optimizer's own groups too. Raises: SpecError."""
    notices = []
    if spec.model.weights:
        notices.append(start_from(model, read_weights(spec.model.weights, data_dir), spec.model.weights))
    if spec.model.freeze:
        notices.append(freeze(model, spec.model.freeze))
    if spec.optimizer.groups:
        notices.append(groups_in_words(model, spec.optimizer))
    return tuple(notices)


def start_from(model: nn.Module, weights: Mapping[str, Any], given: str) -> str:
    """Give a model the weights of a file; what the file does not have stays as it was drawn.

    Returns: a notice: how much was taken, what is missing, what is left over.
    Raises: SpecError for shapes that differ, and for a file of which nothing fits.
    """
    own = model.state_dict()
    taken = {name: value for name, value in weights.items() if name in own}
    _refuse_unlike(own, taken, given, {name for name, _ in model.named_parameters(remove_duplicate=False)})
    if not taken:
        raise SpecError("model.weights", f"nothing in {given} bears a name of this model's.", _why_nothing_fits(weights, own))
    try:
        model.load_state_dict(taken, strict=False)
    except ANYTHING as error:  # a person's own load_state_dict may raise anything
        raise SpecError("model.weights", f"{given} does not fit this model: {described(error)}.") from error
    places = {place(own[name]) for name in taken}
    missing = [name for name, value in own.items() if name not in taken and (not isinstance(value, Tensor) or place(value) not in places)]
    left_over = [name for name in weights if name not in own]
    notice = f"Weights: {len(own) - len(missing)} of the model's {len(own)} tensors are those of {given}."
    if missing:
        notice += f" Not in the file, so they start fresh: {listed(missing)}."
    if left_over:
        notice += f" Left over in the file: {listed(left_over)}."
    return notice


def _why_nothing_fits(weights: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What to do with a file of which no name is the model's: most often one of the two is wrapped."""
    if prefix := _prefix(weights, own):
        return f"The file's names begin with {prefix!r}, which a wrapper gave them: write the state_dict of the model inside of it."
    if prefix := _prefix(own, weights):
        return f"The model's names begin with {prefix!r}: write the file with names that do, or load it where the model is built."
    return f"The file begins with {next(iter(weights))}, the model with {next(iter(own))}."


def _prefix(longer: Iterable[str], shorter: Collection[str]) -> str:
    """What most often stands before one of some names in another; nothing where it never does."""
    found = Counter(name[:at] for name in longer for at in (dot.end() for dot in re.finditer(r"\.", name)) if name[at:] in shorter)
    return found.most_common(1)[0][0] if found else ""


def _refuse_unlike(own: Mapping[str, Any], taken: Mapping[str, Any], given: str, params: Collection[str]) -> None:
    """Raise SpecError for a tensor of a file that the model could only take as another: of another shape or kind, two for one, or no numbers.

    Args: params: names of the parameters; a buffer may be infinite, as masks are.
    """
    tensors = {name: value for name, value in taken.items() if isinstance(value, Tensor) and isinstance(own[name], Tensor)}
    tied: dict[Any, str] = {}
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            shapes = f"has the shape {tuple(value.shape)} in {given} and {tuple(own[name].shape)} in the model"
            raise SpecError(
                "model.weights", f"{name} {shapes}.", "Leave it out of the file, so that it starts fresh, or build the model in that size."
            )
        if own[name].is_floating_point() and not value.is_floating_point():
            problem = f"{name} is {dtype_name(value)} in {given} and {dtype_name(own[name])} in the model."
            raise SpecError("model.weights", problem, "Convert it: numbers that were made whole, or complex, are not those of the weights.")
        if bool(value.isnan().any()) or (name in params and bool(value.isinf().any())):
            raise SpecError(
                "model.weights",
                f"{name} holds NaN or infinity in {given}.",
                "Give the weights of a run that has not diverged, such as its best checkpoint's.",
            )
        first = tied.setdefault(place(own[name]), name)
        if not torch.equal(value.to(own[name].dtype), tensors[first].to(own[name].dtype)):
            problem = f"{first} and {name} are one parameter of the model, and {given} has other numbers for each."
            raise SpecError("model.weights", problem, "Leave one of them out of the file, or build a model in which they are two.")


def freeze(model: nn.Module, patterns: Sequence[str]) -> str:
    """Ask for no gradient of the parameters whose name matches a pattern (`fnmatch`); nothing else of their modules changes.

    Returns: a notice: how much is frozen.
    Raises: SpecError for a pattern that matches nothing, and where nothing is left to train.
    """
    params = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matched = [param for name, param in params if fnmatchcase(name, pattern)]
        if not matched:
            names = [name for name, _ in params]
            raise SpecError("model.freeze", f"{pattern!r} matches no parameter of this model.", nearest(pattern, names, listed=[listed(names)]))
        for param in matched:
            param.requires_grad_(False)
    frozen = [param for param in model.parameters() if not param.requires_grad]
    of = len(list(model.parameters()))
    if len(frozen) == of:
        raise SpecError("model.freeze", f"freezes all {of} parameters of the model: nothing would train.", "Leave out a pattern.")
    return f"Frozen: {len(frozen)} of the model's {of} parameters, {sum(param.numel() for param in frozen):,} numbers."
