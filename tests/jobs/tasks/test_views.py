"""SimCLR's views: against torchvision's own operations, one image at a time, and the same for every split."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from largebatch.jobs.samples.sample_draws import EVALUATION, SampleDraws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import rows
from largebatch.jobs.tasks.contrastive import Contrastive
from largebatch.jobs.tasks.views import SimCLRViews, cropped, recoloured, with_hue_moved

CPU = torch.device("cpu")
NUM = 40
ROUNDING = 2e-5
"""Of colours in 0 ... 1: a hue multiplies float32's rounding by six and by a quotient of small differences."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


images = torch.rand(NUM, 3, 12, 12, generator=generator())
images[0] = 0.3  # no hue
labels = torch.arange(NUM) % 4
VIEWS = SimCLRViews((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def prepared(start: int, stop: int, epoch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    task = Contrastive("simclr", views=VIEWS)
    return task.prepared(rows((images, labels), start, stop), 5, Slice(epoch, start, stop), CPU)


def test_colours_are_torchvisions() -> None:
    draws = torch.rand(NUM, 6, generator=generator(1))
    found = recoloured(images, draws, strength=0.5)
    for image, numbers, own in zip(images, draws.tolist(), found, strict=True):
        expected = image
        if numbers[4] < 0.8:
            expected = functional.adjust_brightness(expected, 0.6 + 0.8 * numbers[0])
            expected = functional.adjust_contrast(expected, 0.6 + 0.8 * numbers[1])
            expected = functional.adjust_saturation(expected, 0.6 + 0.8 * numbers[2])
            expected = functional.adjust_hue(expected, -0.1 + 0.2 * numbers[3])
        if numbers[5] < 0.2:
            expected = functional.rgb_to_grayscale(expected, num_output_channels=3)
        assert torch.allclose(own, expected, atol=ROUNDING)


def test_a_whole_turn_of_the_hue_is_none() -> None:
    whole, third = (with_hue_moved(images, torch.full((NUM, 1, 1, 1), turns)) for turns in (1.0, 1 / 3))
    assert torch.allclose(whole, images, atol=ROUNDING)
    assert torch.allclose(third, images.roll(1, dims=1), atol=ROUNDING)  # red becomes green, green blue, blue red


def test_a_crop_is_a_part_of_the_image_resized() -> None:
    """Each drawn part, cut out as whole pixels and resized by torchvision."""
    for left, top, size in ((0, 0, 6), (4, 1, 8), (0, 0, 12)):
        share = size / 12
        area = (share**2 - 0.08) / 0.92
        draws = torch.tensor(
            [[area, 0.5, left / (12 - size) if size < 12 else 0.5, top / (12 - size) if size < 12 else 0.5, mirror] for mirror in (0.7, 0.2)]
        )
        straight, mirrored = cropped(images[:1].expand(2, -1, -1, -1), draws)
        part = images[0, :, top : top + size, left : left + size]
        expected = functional.resize(part, [12, 12], InterpolationMode.BILINEAR, antialias=False)
        inner = slice(1, -1)  # at the edge of a part torchvision sees no more, a view its surroundings
        assert torch.allclose(straight[:, inner, inner], expected[:, inner, inner], atol=1e-5)
        assert torch.allclose(mirrored, straight.flip(2), atol=1e-5)


def test_areas_and_aspects_are_the_papers() -> None:
    """Of images that say where they are: a view's columns and rows tell how much of the image it shows."""
    places = torch.linspace(-1, 1, 64).expand(64, 64)
    draws = SampleDraws(0, Slice(0, 0, 4000), CPU).uniform("crop", 5)
    views = cropped(torch.stack([places, places.T]).expand(4000, -1, -1, -1), draws)
    wide = (views[:, 0, 32, 48] - views[:, 0, 32, 16]).abs().double()
    high = (views[:, 1, 48, 32] - views[:, 1, 16, 32]).abs().double()
    shares, aspects = wide * high, (wide / high).log()
    is_cut = (draws[:, 0] > 0.75) | (wide > 0.97) | (high > 0.97)
    assert float(shares[~is_cut].min()) > 0.07
    assert float(aspects[~is_cut].abs().max()) < math.log(4 / 3) + 0.03
    assert float(shares.mean()) == pytest.approx(0.54, abs=0.04)  # a little below: what is too wide is cut


def test_no_split_changes_them_and_every_epoch_draws_others() -> None:
    whole = prepared(0, NUM)
    for start, stop in ((0, 7), (7, 33), (33, NUM)):
        for own, expected in zip(prepared(start, stop), whole, strict=True):
            assert torch.allclose(own, expected[start:stop], atol=1e-5)
    first, second, own_labels = whole
    assert torch.equal(own_labels, labels)
    assert not torch.allclose(first, second, atol=0.1)
    assert not torch.allclose(first, prepared(0, NUM, epoch=4)[0], atol=0.1)


def test_what_is_evaluated_is_the_image_itself_and_one_view() -> None:
    first, second, _ = prepared(0, NUM, EVALUATION)
    assert torch.equal(first, images)
    assert not torch.allclose(second, images, atol=0.1)


def test_they_end_in_what_the_model_reads() -> None:
    """Colours in 0 ... 1, brought to zero mean and unit variance."""
    normalised = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    view = VIEWS.view(normalised, SampleDraws(0, Slice(0, 0, NUM), CPU), "first")
    colours = view * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    assert float(colours.min()) > -1e-5
    assert float(colours.max()) < 1 + 1e-5
