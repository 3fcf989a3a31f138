"""Any image model of the `timm` library, built by `timm.create_model`, with fresh weights unless `pretrained` is asked for."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.mistakes import cannot_be_built

TIMM = "timm:"
"""Begins the names of these models: timm:mobilenetv3_small_050."""


def timm_model(name: str, arguments: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """A model by its name in the library.

    Args: arguments: of `create_model`; num_classes, in_chans and, where the library says that it is fixed, img_size need not be given.
    Raises: SpecError.
    """
    try:
        import timm
    except ImportError:
        raise SpecError("model.name", f"{name} is of the timm library, which is not installed.", "pip install timm") from None
    if len(dataset.input_shape) != 3:
        problem = f"{TIMM}{name} takes images (channels, height, width), not samples of shape {dataset.input_shape}."
        raise SpecError("model.name", problem, "Choose another model.")
    if not timm.is_model(name):
        raise SpecError(
            "model.name", f"timm has no model {name!r}.", nearest(name, timm.list_models(), listed=["resnet18", "vit_tiny_patch16_224", "..."])
        )
    channels, *size = dataset.input_shape
    from_data: dict[str, Any] = {"num_classes": dataset.num_outputs, "in_chans": channels}
    usual = timm.models.get_pretrained_cfg(name)
    if usual is not None and usual.fixed_input_size:
        from_data["img_size"] = size
    try:
        model: nn.Module = timm.create_model(name, **{**from_data, **arguments})
    except ANYTHING as error:
        raise cannot_be_built(f"{TIMM}{name}", from_data, arguments, described(error)) from error
    return model
