"""Reads a picture from its file as people see it: upright, in red, green and blue, nothing cut off."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the names of pictures, in small or capital letters."""
BITS, WHITE_IS_ZERO = 258, (262, 0)
"""TIFF's tag of the bits in a number, and the tag and value of pictures whose zero is white."""
GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}


def read_picture(path: str) -> "Image | Tensor":
    """The picture in a file: RGB of 8 bits, or (3, H, W) float32 in 0 ... 1 where it is grey of 16 bits.

    It is turned as its file asks for (EXIF), and what is transparent lies on white.
    Raises: ValueError for what is not one picture with a white that is known; what PIL raises for what it cannot read.
    """
    from PIL import Image, ImageOps

    try:
        opened = Image.open(path)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"it has more than {limit:,} pixels, the most that are read; save it smaller") from error
    with opened as image:
        num_frames = getattr(image, "n_frames", 1)
        if num_frames > 1 and image.format != "MPO":  # a camera's MPO is one picture; what follows are its previews
            raise ValueError(f"it holds {num_frames} pictures, and a sample is one")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        # PIL has 16 bits of grey under several names; where the format has no more of them, "I" (32 bits) is one.
        if image.mode in GREY_16 or (image.mode == "I" and image.format in {"PNG", "PPM"}):
            return _grey(image).expand(3, -1, -1)
        if image.mode in {"I", "F"}:
            kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
            raise ValueError(f"its pixels are {kind}, and which of them is white is not said; save it with 8 or 16 bits")
        if image.has_transparency_data:
            paper = Image.new("RGBA", image.size, "white")
            paper.alpha_composite(image.convert("RGBA"))
            return paper.convert("RGB")
        return image.convert("RGB")


def _grey(image: "Image") -> Tensor:
    """Grey of up to 16 bits, (H, W), 0 black ... 1 white."""
    if image.has_transparency_data:
        raise ValueError("it has 16 bits and transparent pixels; save it without them, or with 8 bits")
    tags = getattr(image, "tag_v2", {})
    (bits,), (tag, is_zero) = tags.get(BITS, (16,)), WHITE_IS_ZERO
    grey: Tensor = torch.from_numpy(np.asarray(image).astype(np.float32)) / (2**bits - 1)
    return 1 - grey if tags.get(tag) == is_zero else grey
