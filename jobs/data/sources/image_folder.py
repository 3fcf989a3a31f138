"""Reads image folders in ImageNet's layout, through torchvision's v2 transforms; pictures as people see them: upright, in red, green and blue."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import AugmentSpec

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYOUT = "Expected PATH/train/CLASS/image.jpg and PATH/val/CLASS/image.jpg; set dataset.arguments.path."
NOT_DATA = {"__MACOSX", "@eaDir", "__pycache__"}
"""Folders that programs leave behind under names that are not hidden."""
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the names of pictures, in small or capital letters."""
BITS, WHITE_IS_ZERO = 258, (262, 0)
"""TIFF's tag of the bits in a number, and the tag and value of pictures whose zero is white."""
GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}


class Listing(NamedTuple):
    """The pictures of one part, in the order of their classes, folders and names."""

    classes: list[str]
    samples: list[tuple[str, int]]
    left_out: list[str]
    """Paths that are no picture of a class: hidden, or named otherwise."""


class FolderPart:
    """One part (train or val) of an image folder: (float image (3, size, size), label) by index."""

    def __init__(self, listing: Listing, transform: Any, evaluation_transform: Any) -> None:
        self._listing, self._samples, self._transform, self._evaluation_transform = listing, listing.samples, transform, evaluation_transform
        self.classes = listing.classes

    def for_evaluation(self) -> "FolderPart":
        """The same pictures without random changes."""
        return FolderPart(self._listing, self._evaluation_transform, self._evaluation_transform)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._samples[index]
        try:
            image = read_picture(path)
        except Exception as error:  # decoders raise many kinds: UnidentifiedImageError, OSError, SyntaxError ...
            raise DataError(path, f"the image cannot be read: {error}.", "Replace or remove the file.") from error
        return self._transform(image), label


def load_image_folder(root: Path, image_size: int, augment: AugmentSpec) -> Dataset:
    """The training and validation parts below `root`. Raises: DataError."""
    from torchvision.transforms import v2

    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    centre = [v2.Resize(round(image_size * 256 / 224), antialias=True), v2.CenterCrop(image_size)]
    crop = [v2.RandomResizedCrop(image_size, antialias=True)] if augment.resized_crop else centre
    flip = [v2.RandomHorizontalFlip()] if augment.horizontal_flip == "random" else []
    folders = [root / "train", root / "val"]
    listings = [list_images(folder) for folder in folders]
    if listings[0].classes != listings[1].classes:
        differing = sorted(set(listings[0].classes) ^ set(listings[1].classes))
        raise DataError("--data-dir", f"{root}: train and val hold different classes, {differing[0]!r} for one.", "Give both the same folders.")
    plain = v2.Compose([*centre, *finish])
    train, test = FolderPart(listings[0], v2.Compose([*crop, *flip, *finish]), plain), FolderPart(listings[1], plain, plain)
    notices = tuple(_left_out_in_words(folder, listing.left_out) for folder, listing in zip(folders, listings, strict=True) if listing.left_out)
    return Dataset(root.name, train, test, len(train.classes), (3, image_size, image_size), notices=notices)


def list_images(root: Path) -> Listing:
    """All pictures below the class folders of one part. Raises: DataError for what could only be read wrongly."""
    samples: list[tuple[str, int]] = []
    left_out: list[str] = []
    try:
        seen = {_identity(str(root)): str(root)}
        classes = []
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            if _is_hidden(entry) or not entry.is_dir():
                left_out.append(entry.path)
            else:
                classes.append(entry.name)
        for label, name in enumerate(classes):
            pictures = [(path, label) for _, path in sorted(_pictures_below(str(root / name), seen, left_out))]
            if not pictures:
                hint = f"Remove it, or put images there ({', '.join(SUFFIXES)})."
                raise DataError("--data-dir", f"{root} has a folder {name} without images.", hint)
            samples += pictures
    except OSError as error:
        raise DataError("--data-dir", f"{root} is not an image folder: {error}.", LAYOUT) from error
    if not classes:
        raise DataError("--data-dir", f"{root} is not an image folder: it holds no folder of a class.", LAYOUT)
    return Listing(classes, samples, left_out)


def _pictures_below(folder: str, seen: dict[tuple[int, int], str], left_out: list[str]) -> Iterator[tuple[str, str]]:
    """(folder, path) of each picture in a folder and all below it; links are followed, to no folder twice."""
    earlier = seen.setdefault(_identity(folder), folder)
    if earlier != folder:
        raise DataError("--data-dir", f"{folder} is the same folder as {earlier}, by a link: its images would count twice.", "Remove the link.")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _is_hidden(entry):
            left_out.append(entry.path)
        elif entry.is_dir():
            yield from _pictures_below(entry.path, seen, left_out)
        elif not entry.name.lower().endswith(SUFFIXES):
            left_out.append(entry.path)
        elif not entry.is_file():
            raise DataError("--data-dir", f"{entry.path} is no file, or a link to nothing.", "Remove it.")
        else:
            yield folder, entry.path


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name in NOT_DATA


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _left_out_in_words(part: Path, left_out: list[str]) -> str:
    count, first = len(left_out), os.path.relpath(left_out[0], part)
    subject = f"{first} is" if count == 1 else f"{count} files and folders, such as {first}, are"
    return f"Data: {subject} left out of {part}: hidden, outside of the classes' folders, or not named as an image."


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
