"""Lists the models by name, and builds one from a spec."""

import inspect
import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from largebatch.jobs.entry_points import call_entry_point
from largebatch.jobs.errors import SpecError
from largebatch.jobs.models import keskar, small, transformer
from largebatch.jobs.models.first_pass import make_whole
from largebatch.jobs.models.libraries.from_timm import TIMM, timm_model
from largebatch.jobs.models.libraries.from_torchvision import torchvision_model
from largebatch.jobs.models.libraries.from_transformers import TRANSFORMERS, transformers_model
from largebatch.jobs.models.parameters import refuse_parameters, unfold_buffers
from largebatch.jobs.models.towers.clip import TwoTowers
from largebatch.jobs.models.towers.simclr import SimCLR
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.keyed_random import key, own_draws, seed_all_draws, seed_draws
from largebatch.jobs.samples.trees import Tree
from largebatch.jobs.spec.mistakes import refuse_unknown_arguments
from largebatch.jobs.spec.model_and_data import ModelSpec

OURS: dict[str, Callable[..., nn.Module]] = {
    "mlp": small.mlp,
    "transformer": transformer.decoder,
    "transformer-encoder": transformer.encoder,
    "lenet": small.lenet,
    "resnet9": small.ResNet9,
    "two-towers": TwoTowers,
    "simclr": SimCLR,
    "keskar-f1": keskar.f1,
    "keskar-c1": keskar.c1,
    "keskar-c2": keskar.VGG,
    "keskar-c3": keskar.c1,
    "keskar-c4": keskar.VGG,
}


Call = Callable[[nn.Module, Tree], Any]
"""Passes a batch through a model, as the task does."""


def build_model(
    spec: ModelSpec, dataset: Dataset, seed: int, blank: Tree | None = None, call: Call = lambda model, batch: model(batch[0])
) -> nn.Module:
    """A model with fresh weights; the same weights for the same seed whatever the device.

    Args:
        dataset: what it is built for.
        blank: some samples of nothing, on the device, for what a person's own model makes when the first samples come.
    Raises: SpecError; PlanError for layers that depend on which samples come first.
    """
    with torch.random.fork_rng(devices=[]):
        if spec.entry_point is None:
            seed_draws(key(seed, "weights"), torch.device("cpu"))
            model = _by_name(spec, dataset)
        else:
            model = _own(spec, dataset, seed)
            if not any(map(is_lazy, (*model.parameters(), *model.buffers()))):
                refuse_parameters(model)  # before a move to a device gives each memory of its own
                unfold_buffers(model)
            if blank is not None:
                model = make_whole(model, lambda: _own(spec, dataset, seed), blank, seed, call)
        if spec.zero_init_residual and zero_init_residual(model) == 0:
            raise SpecError("model.zero_init_residual", f"{spec.name or spec.entry_point} has no residual blocks with batch-norm.", "Leave it out.")
    if spec.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SpecError("model", "has no parameter to train.")
    return model


def _by_name(spec: ModelSpec, dataset: Dataset) -> nn.Module:
    name = spec.name or ""
    if name.startswith(TRANSFORMERS):
        return transformers_model(name.removeprefix(TRANSFORMERS), spec.arguments, dataset)
    if dataset.num_outputs is None:
        what, attribute = ("a number of tokens", "vocabulary_size") if dataset.sequence_length else ("a number of outputs", "num_outputs")
        hint = f"Give the training set an attribute {attribute}."
        raise SpecError("model.name", f"{name} is built for {what}, and the data set does not tell one.", hint)
    if name.startswith(TIMM):
        return timm_model(name.removeprefix(TIMM), spec.arguments, dataset)
    if name not in OURS:
        return torchvision_model(name, spec.arguments, dataset, OURS)
    build = OURS[name]
    parameters = inspect.signature(build).parameters
    from_data = _from_data(parameters, dataset, name)
    settable = [parameter for parameter in parameters if parameter not in from_data]
    refuse_unknown_arguments("model", name, spec.arguments, settable)
    for argument, value in spec.arguments.items():
        if type(value) is int and value < (0 if argument == "depth" else 1):  # torch builds layers of nothing, with a warning
            raise SpecError(f"model.arguments.{argument}", f"must be above 0, not {value}.")
    try:
        return build(**from_data, **spec.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError("model.arguments", f"{name} cannot be built with them: {error}.") from error


def _from_data(parameters: Collection[str], dataset: Dataset, name: str) -> dict[str, int]:
    """The arguments that follow from the data: num_classes, in_features, in_channels and image_size, vocabulary_size and sequence_length."""
    input_shape = dataset.input_shape
    from_data = {argument: number for argument, number in dataset.for_model.items() if argument in parameters}
    if "sequence_length" in parameters and dataset.sequence_length is not None:
        from_data["sequence_length"] = dataset.sequence_length
    if "num_classes" in parameters and dataset.num_outputs is not None:
        from_data["num_classes"] = dataset.num_outputs
    if "vocabulary_size" in parameters and "vocabulary_size" not in from_data:
        raise SpecError("model.name", f"{name} takes tokens, and {dataset.name} has none.", "Choose another model, or dataset.name=tokens.")
    if "in_features" in parameters:
        from_data["in_features"] = math.prod(input_shape)
    if "in_channels" in parameters:
        if len(input_shape) != 3:
            raise SpecError("model.name", f"{name} takes images (channels, height, width), not samples of shape {input_shape}.", "Try mlp.")
        from_data["in_channels"] = input_shape[0]
        smallest = {"keskar-c2": 32, "keskar-c4": 32, "resnet9": 8, "two-towers": 8, "simclr": 8}.get(name, 4)
        if min(input_shape[1:]) < smallest:
            raise SpecError(
                "model.name", f"{name} needs images of at least {smallest}x{smallest}, not {input_shape[1]}x{input_shape[2]}.", "Try lenet or mlp."
            )
    if "image_size" in parameters:
        if input_shape[1] != input_shape[2]:
            raise SpecError("model.name", f"{name} takes square images, not {input_shape[1]}x{input_shape[2]}.", "Try resnet9 or mlp.")
        from_data["image_size"] = input_shape[1]
    return from_data


def _own(spec: ModelSpec, dataset: Dataset, seed: int) -> nn.Module:
    """A person's own model, its weights drawn from the seed, by Python's and numpy's generators too."""
    with own_draws():
        seed_all_draws(key(seed, "weights"))
        offered = {"num_classes": dataset.num_classes} if dataset.num_classes else {}
        model = call_entry_point("model.entry_point", spec.entry_point or "", {**offered, **spec.arguments}, offered=dataset.for_model)
    if not isinstance(model, nn.Module):
        raise SpecError("model.entry_point", f"{spec.entry_point} returned {type(model).__name__}; it must return an nn.Module.")
    for name, module in model.named_modules():
        part = f", part {name}," if name else ""
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise SpecError(
                "model.entry_point",
                f"{spec.entry_point}{part} is shared among devices already (DataParallel), and largebatch shares each batch itself.",
                "Return the module inside, and give --workers.",
            )
        if isinstance(module, torch.jit.ScriptModule):
            problem = f"{spec.entry_point}{part} is a ScriptModule (torch.jit), whose inside nothing can follow."
            raise SpecError("model.entry_point", problem, "Return the module that it was made of, and set compile: true where it is to be fast.")
        if type(module).__name__ == "OptimizedModule" and type(module).__module__.startswith("torch._dynamo"):
            raise SpecError("model.entry_point", f"{spec.entry_point}{part} is compiled already.", "Return the module itself, and set compile: true.")
    return model


def zero_init_residual(model: nn.Module) -> int:
    """Start the last batch-norm of each residual block at zero; returns how many blocks there were.

    Knows torchvision's BasicBlock and Bottleneck (bn2, bn3) and our own blocks (attribute `last_norm`).
    """
    num_blocks = 0
    for module in model.modules():
        last: Any = getattr(module, "last_norm", None)
        if last is None and hasattr(module, "downsample"):
            last = getattr(module, "bn3", None) or getattr(module, "bn2", None)
        if isinstance(last, nn.Module) and isinstance(getattr(last, "weight", None), nn.Parameter):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            num_blocks += 1
    return num_blocks
