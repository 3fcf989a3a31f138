"""Augments a batch of images that is on the device already, still as uint8.

Letters: N samples, C channels, H rows, W columns.
"""

import torch
from torch import Tensor

from largebatch.jobs.samples.keyed_random import integers, key, uniform
from largebatch.jobs.spec.model_and_data import AugmentSpec


def augments(spec: AugmentSpec) -> bool:
    """Whether `augment` would change anything."""
    return spec.horizontal_flip != "none" or spec.translate > 0 or spec.cutout > 0


def augment(images: Tensor, indices: Tensor, epoch: int, seed: int, spec: AugmentSpec) -> Tensor:
    """The images of one epoch, changed as (seed, epoch, sample index) draws it.

    Args:
        images: (N, C, H, W), any dtype; not changed in place.
        indices: (N,), int64, each image's number in the data set, on the same device.
    Returns: (N, C, H, W).
    """
    flips = _flips(indices, epoch, seed, spec)
    if spec.translate or flips is not None:
        images = _translate_and_flip(images, indices, epoch, seed, spec.translate, flips)
    if spec.cutout:
        images = _cutout(images, indices, epoch, seed, spec.cutout)
    return images


def _flips(indices: Tensor, epoch: int, seed: int, spec: AugmentSpec) -> Tensor | None:
    if spec.horizontal_flip == "none":
        return None
    if spec.horizontal_flip == "random":
        return uniform(key(seed, "flip", epoch), indices) < 0.5
    starts_flipped = uniform(key(seed, "flip"), indices) < 0.5
    return starts_flipped ^ bool(epoch % 2)


def _translate_and_flip(images_NCHW: Tensor, indices: Tensor, epoch: int, seed: int, reach: int, flips: Tensor | None) -> Tensor:
    """Each output pixel is read from where it was: one gather for both changes."""
    num_samples, _, height, width = images_NCHW.shape
    rows_NH = torch.arange(height, device=images_NCHW.device).expand(num_samples, height)
    columns_NW = torch.arange(width, device=images_NCHW.device).expand(num_samples, width)
    if flips is not None:
        columns_NW = torch.where(flips[:, None], width - 1 - columns_NW, columns_NW)
    if reach:
        rows_NH = rows_NH + integers(key(seed, "rows", epoch), indices, -reach, reach)[:, None] + reach
        columns_NW = columns_NW + integers(key(seed, "columns", epoch), indices, -reach, reach)[:, None] + reach
        images_NCHW = torch.nn.functional.pad(images_NCHW, (reach, reach, reach, reach))
    samples_N = torch.arange(num_samples, device=images_NCHW.device)
    # Advanced indices around the slice put the channels last in memory: shape (N, H, W, C).
    moved_NHWC = images_NCHW[samples_N[:, None, None], :, rows_NH[:, :, None], columns_NW[:, None, :]]
    return moved_NHWC.permute(0, 3, 1, 2)


def _cutout(images_NCHW: Tensor, indices: Tensor, epoch: int, seed: int, side: int) -> Tensor:
    """Blank a square whose centre is anywhere in the image (DeVries and Taylor, arXiv:1708.04552)."""
    _, _, height, width = images_NCHW.shape
    top_N = integers(key(seed, "cutout rows", epoch), indices, 0, height - 1) - side // 2
    left_N = integers(key(seed, "cutout columns", epoch), indices, 0, width - 1) - side // 2
    rows_H = torch.arange(height, device=images_NCHW.device)
    columns_W = torch.arange(width, device=images_NCHW.device)
    in_rows_NH = (rows_H >= top_N[:, None]) & (rows_H < top_N[:, None] + side)
    in_columns_NW = (columns_W >= left_N[:, None]) & (columns_W < left_N[:, None] + side)
    hole_NHW = in_rows_NH[:, :, None] & in_columns_NW[:, None, :]
    return images_NCHW.masked_fill(hole_NHW[:, None], 0)
