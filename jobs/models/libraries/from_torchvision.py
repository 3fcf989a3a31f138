"""Any classification model of torchvision, with fresh weights."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.mistakes import cannot_be_built


def torchvision_model(name: str, arguments: Mapping[str, Any], dataset: Dataset, ours: Collection[str]) -> nn.Module:
    """A model by its builder's name, such as efficientnet_b0.

    Args:
        arguments: of its builder; num_classes and, of vision transformers, the size of images need not be given.
        ours: names of this package's own models, for who meant one of them.
    Raises: SpecError.
    """
    try:
        from torchvision import models
    except ImportError:
        raise SpecError("model.name", f"{name!r} is not one of our models, and torchvision is not installed.", nearest(name, ours)) from None
    known = models.list_models(module=models)
    if name not in known:
        raise SpecError(
            "model.name", f"{name!r} is not a model.", nearest(name, [*ours, *known], listed=[*ours, "torchvision's classification models"])
        )
    build = models.get_model_builder(name)
    from_data = {"num_classes": dataset.num_outputs, **_size(build, dataset.input_shape)}
    try:
        model: nn.Module = build(**{"weights": None, **from_data, **arguments})
    except (TypeError, ValueError) as error:
        raise cannot_be_built(name, from_data, arguments, str(error)) from error
    return model


def _size(build: Callable[..., nn.Module], input_shape: tuple[int, ...]) -> dict[str, Any]:
    """The size of images by the name that the model's class has for it, where it is built for one: ViT's image_size, MaxViT's input_size."""
    built_for = inspect.signature(inspect.signature(build).return_annotation).parameters
    sizes = {"image_size": input_shape[-1], "input_size": input_shape[-2:]} if len(input_shape) == 3 else {}
    return {argument: size for argument, size in sizes.items() if argument in built_for}
