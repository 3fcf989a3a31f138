"""Image folders in ImageNet's layout, through torchvision's v2 transforms."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.data.dataset import Dataset
from jobs.errors import DataError
from jobs.spec import AugmentSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FolderPart:
    """One part (train or val) of an image folder: (float image (3, size, size), label) by index."""

    def __init__(self, root: Path, transform: Any) -> None:
        from torchvision.datasets import ImageFolder

        try:
            self._folder = ImageFolder(str(root))
        except (FileNotFoundError, OSError) as error:
            raise DataError(
                "--data-dir",
                f"{root} is not an image folder: {error}.",
                "Expected PATH/train/CLASS/image.jpg and PATH/val/CLASS/image.jpg; set dataset.arguments.path.",
            ) from error
        self._transform = transform
        self.classes: list[str] = self._folder.classes

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._folder.samples[index]
        try:
            image = self._folder.loader(path)
        except Exception as error:  # decoders raise many kinds: UnidentifiedImageError, OSError, SyntaxError ...
            raise DataError(path, f"the image cannot be read: {error}.", "Replace or remove the file.") from error
        return self._transform(image), label


def load_image_folder(root: Path, image_size: int, augment: AugmentSpec) -> Dataset:
    """The training and validation parts below `root`. Raises: DataError."""
    from torchvision.transforms import v2

    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    whole = [v2.Resize(round(image_size * 256 / 224), antialias=True), v2.CenterCrop(image_size)]
    part = [v2.RandomResizedCrop(image_size, antialias=True)] if augment.resized_crop else whole
    flip = [v2.RandomHorizontalFlip()] if augment.horizontal_flip == "random" else []
    train = FolderPart(root / "train", v2.Compose([*part, *flip, *finish]))
    test = FolderPart(root / "val", v2.Compose([*whole, *finish]))
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise DataError("--data-dir", f"{root}: train and val hold different classes, {differing[0]!r} for one.", "Give both the same folders.")
    return Dataset(root.name, train, test, len(train.classes), (3, image_size, image_size))
