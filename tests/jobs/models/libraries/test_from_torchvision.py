"""torchvision's models get the sizes that follow from the data."""

import pytest
import torch
from torch import nn

from largebatch.jobs.errors import SpecError
from largebatch.jobs.models.libraries.from_torchvision import torchvision_model
from largebatch.jobs.samples.dataset import Dataset


def built(name: str, shape: tuple[int, ...] = (3, 64, 64), **arguments: object) -> nn.Module:
    with torch.device("meta"):  # shapes alone
        return torchvision_model(name, arguments, Dataset("any", [], [], 7, shape), [])


def test_a_vision_transformer_is_built_for_the_images() -> None:
    model = built("vit_b_16")
    assert model.image_size == 64
    assert model.heads.head.out_features == 7
    assert built("vit_b_16", image_size=32).image_size == 32


def test_maxvit_is_built_for_the_images() -> None:
    assert built("maxvit_t", (3, 448, 448))(torch.empty(2, 3, 448, 448, device="meta")).shape == (2, 7)
    words = r"maxvit_t cannot be built with them and what follows from the data \(num_classes 7, input_size \(64, 64\)\): .*partition size"
    with pytest.raises(SpecError, match=words):
        built("maxvit_t")


def test_a_convolutional_network_has_no_size() -> None:
    assert built("squeezenet1_1", (3, 64, 48))(torch.empty(2, 3, 64, 48, device="meta")).shape == (2, 7)
