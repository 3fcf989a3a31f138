"""SimCLR's random views of images (Chen et al., arXiv:2002.05709, appendix A), drawn for each sample by its place in the epoch alone.

A part of the image, resized, maybe mirrored; then, of four in five, brightness, contrast, saturation and hue; one in five grey. No blur, as the
paper leaves it out for images of 32 x 32 (B.9). Letters: N images, C channels (red, green, blue), H rows, W columns.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.samples.sample_draws import SampleDraws

SMALLEST_AREA, LARGEST_ASPECT = 0.08, 4 / 3
"""Of a crop: its share of the image, and its longer side over the shorter."""
JITTERED, GREY = 0.8, 0.2
"""How often colours change, and how often they go."""
LUMA = (0.2989, 0.587, 0.114)


class SimCLRViews:
    """Random views of images that come to zero mean and unit variance.

    Args:
        mean, std: of each channel, which the images were brought to zero and one by.
        strength: of the changes of colour; the paper takes 0.5 for CIFAR-10, 1 for ImageNet.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], strength: float = 0.5) -> None:
        self._mean, self._std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, std))
        self._strength = strength

    def view(self, images_NCHW: Tensor, draws: SampleDraws, purpose: str) -> Tensor:
        """One random view of each image, of the same shape. Args: purpose: another view for each."""
        crop_ND, colour_ND = draws.uniform(f"{purpose} crop", 5), draws.uniform(f"{purpose} colour", 6)
        mean, std = self._mean.to(images_NCHW.device), self._std.to(images_NCHW.device)
        colours_NCHW = cropped(images_NCHW, crop_ND) * std + mean
        return (recoloured(colours_NCHW, colour_ND, self._strength) - mean) / std


def cropped(images_NCHW: Tensor, uniform_N5: Tensor) -> Tensor:
    """A random part of each image, resized to the whole by linear interpolation, mirrored in half of the cases.

    Where a part of the drawn area and aspect is larger than the image it is cut at the edge; the paper's code draws again.
    Args: uniform_N5: in [0, 1): area, aspect, column, row, mirror.
    """
    area, aspect, column, row, mirror = uniform_N5.unbind(1)
    height, width = images_NCHW.shape[2:]
    area = SMALLEST_AREA + (1 - SMALLEST_AREA) * area
    aspect = ((2 * aspect - 1) * math.log(LARGEST_ASPECT)).exp()
    wide, high = ((area * aspect * height / width).sqrt().clamp(max=1), (area / aspect * width / height).sqrt().clamp(max=1))
    none = torch.zeros_like(wide)
    # From places in the view to places in the image, both -1 ... 1.
    across = torch.stack([torch.where(mirror < 0.5, -wide, wide), none, (2 * column - 1) * (1 - wide)], dim=1)
    down = torch.stack([none, high, (2 * row - 1) * (1 - high)], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)


def recoloured(images_NCHW: Tensor, uniform_N6: Tensor, strength: float) -> Tensor:
    """Images in 0 ... 1 with other brightness, contrast, saturation and hue, in this order, or grey. Args: uniform_N6: in [0, 1)."""
    *changes, is_jittered, is_grey = (numbers.view(-1, 1, 1, 1) for numbers in uniform_N6.unbind(1))
    brightness, contrast, saturation = (1 + 0.8 * strength * (2 * change - 1) for change in changes[:3])
    changed = (images_NCHW * brightness).clamp(0, 1)
    changed = blended(changed, grey(changed).mean((2, 3), keepdim=True), contrast)
    changed = blended(changed, grey(changed), saturation)
    changed = with_hue_moved(changed, 0.2 * strength * (2 * changes[3] - 1))
    changed = torch.where(is_jittered < JITTERED, changed, images_NCHW)
    return torch.where(is_grey < GREY, grey(changed).expand_as(changed), changed)


def grey(images_NCHW: Tensor) -> Tensor:
    """(N, 1, H, W) luma."""
    luma = images_NCHW.new_tensor(LUMA).view(1, 3, 1, 1)
    return (luma * images_NCHW).sum(1, keepdim=True)


def blended(images_NCHW: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """`share` of the images and the rest of the others, which may be below nothing; in 0 ... 1."""
    return (others + share * (images_NCHW - others)).clamp(0, 1)


def with_hue_moved(images_NCHW: Tensor, turns: Tensor) -> Tensor:
    """The images with their hue turned by so many whole turns of the circle; value and saturation (HSV) stay."""
    red, green, blue = torch.split(images_NCHW, 1, dim=1)
    value, lowest = images_NCHW.amax(1, keepdim=True), images_NCHW.amin(1, keepdim=True)
    chroma = value - lowest
    divisor = chroma.where(chroma > 0, torch.ones_like(chroma))
    hue = torch.where(value == red, (green - blue) / divisor, torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor))
    sixths = hue + 6 * turns
    places = torch.tensor([5.0, 3.0, 1.0], device=images_NCHW.device).view(1, 3, 1, 1)
    away = (places + sixths).remainder(6)
    return value - chroma * torch.minimum(away, 4 - away).clamp(0, 1)
