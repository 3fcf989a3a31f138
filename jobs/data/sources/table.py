"""Loads a data set: by name from the data folder, or a person's own by its entry point."""

import csv
import gzip
import importlib.util
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from largebatch.jobs.data.augment import augments
from largebatch.jobs.data.sources import captions
from largebatch.jobs.data.sources.image_folder import load_image_folder
from largebatch.jobs.data.sources.own import load_own
from largebatch.jobs.data.sources.tokens import MAKE, token_parts
from largebatch.jobs.data.sources.validation import hold_out
from largebatch.jobs.errors import DataError, SpecError, nearest
from largebatch.jobs.samples.dataset import Dataset, Images, Tensors, are_channels_last, refuse_bad_labels
from largebatch.jobs.samples.keyed_random import key, sample_order
from largebatch.jobs.spec.mistakes import refuse_unknown_arguments
from largebatch.jobs.spec.model_and_data import AugmentSpec, DatasetSpec
from largebatch.jobs.tasks.registry import ClassificationConfig, ContrastiveConfig, TaskConfig

NUM_DIGITS_TEST, NUM_DIABETES_TEST = 360, 88


def load_dataset(spec: DatasetSpec, data_dir: Path, task: TaskConfig | None = None) -> Dataset:
    """The data set that a spec names, as a task reads it (classification where none is given). Raises: SpecError, DataError."""
    task = task or ClassificationConfig()
    dataset = load_own(spec, task) if spec.entry_point is not None else _by_name(spec, data_dir, task)
    if task.takes_classes and dataset.num_classes is None:
        raise SpecError("task", f"{task.name} needs the numbers of classes, and {dataset.name} has none.", "Choose another task.name.")
    _refuse_augmentation_that_cannot_be(spec, dataset)
    return dataset if spec.validation is None else hold_out(dataset, spec.validation)


def _by_name(spec: DatasetSpec, data_dir: Path, task: TaskConfig) -> Dataset:
    name = spec.name or ""
    if name not in SOURCES:
        raise SpecError("dataset.name", f"{name!r} is not a data set.", nearest(name, SOURCES))
    source = SOURCES[name]
    settable = list(inspect.signature(source).parameters)[2:]
    given = {"task": task} if "task" in settable else {}
    refuse_unknown_arguments("dataset", name, spec.arguments, [argument for argument in settable if argument not in given])
    try:
        return source(spec, data_dir, **given, **spec.arguments)
    except TypeError as error:
        raise SpecError("dataset.arguments", f"{name} cannot use them: {error}.") from error


def _refuse_augmentation_that_cannot_be(spec: DatasetSpec, dataset: Dataset) -> None:
    augmentation = spec.augment
    is_held = isinstance(dataset.train, Images) or (spec.entry_point is None and isinstance(dataset.train, Tensors))
    if is_held and augmentation.resized_crop:
        raise SpecError("dataset.augment.resized_crop", "is for image folders.", "Use translate instead.")
    if is_held and augments(augmentation) and len(dataset.input_shape) != 3:
        problem = f"changes images (channels, height, width), and these samples are {dataset.input_shape}."
        raise SpecError("dataset.augment", problem, "Leave dataset.augment out.")
    if is_held and augments(augmentation) and are_channels_last(dataset.input_shape):
        problem = f"changes images (channels, height, width), and these samples are {dataset.input_shape}: their channels come last, it seems."
        raise SpecError("dataset.augment", problem, "Give images.permute(0, 3, 1, 2), or leave dataset.augment out.")
    if not is_held and spec.entry_point is not None and augmentation != AugmentSpec():
        hint = "Leave it out: your own data set augments itself; or return a TensorDataset of images."
        reason = "which are not (image, number of a class) alone" if isinstance(dataset.train, Tensors) else "which are read one by one"
        raise SpecError("dataset.augment", f"does not reach the samples of {spec.entry_point}, {reason}.", hint)
    if not is_held and (augmentation.translate or augmentation.cutout or augmentation.horizontal_flip == "alternating"):
        hint = "Image folders take resized_crop and horizontal_flip: random."
        raise SpecError("dataset.augment", "translate, cutout and alternating flips work on sets held in memory.", hint)
    for option in ("translate", "cutout"):
        pixels, side = getattr(augmentation, option), min(dataset.input_shape[1:], default=0)
        if pixels and pixels >= side:
            problem = f"of {pixels} pixels leaves nothing of some images, which are {dataset.input_shape} (channels, height, width)."
            raise SpecError(f"dataset.augment.{option}", problem, f"Give less than {side}; an eighth to a half of a side is usual.")


def diabetes(spec: DatasetSpec, data_dir: Path) -> Dataset:
    """scikit-learn's copy of the diabetes study of Efron et al. (2004): 442 patients, 10 standardised features, progression after a year."""
    folder = _inside_scikit_learn("diabetes")
    try:
        features, progression = (
            torch.from_numpy(np.loadtxt(folder / name, dtype=np.float32)) for name in ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz")
        )
    except (OSError, ValueError, EOFError) as error:
        raise DataError(str(folder), f"the diabetes study cannot be read: {error}.", "Install scikit-learn again.") from error
    order = sample_order(0, key("diabetes split"), len(progression))
    features, progression = features[order], progression[order, None]
    rest = slice(NUM_DIABETES_TEST, None)
    features = (features - features[rest].mean(0)) / features[rest].std(0)
    train, test = Tensors((features[rest], progression[rest])), Tensors((features[:NUM_DIABETES_TEST], progression[:NUM_DIABETES_TEST]))
    leaves = (("0", (10,), torch.float32), ("1", (1,), torch.float32))
    return Dataset("diabetes", train, test, None, (10,), sample_leaves=leaves, for_model={"num_outputs": 1})


def tokens(
    spec: DatasetSpec, data_dir: Path, task: TaskConfig, path: str = "tokens", sequence_length: int = 256, documents: str = "packed"
) -> Dataset:
    """Sequences of tokens from a folder that `largebatch tokens` made; memory-mapped."""
    _refuse_other_than_counts(sequence_length=sequence_length)
    if not isinstance(path, str):
        raise SpecError("dataset.arguments.path", f"must be a folder's name, not {path!r}.", "It is looked for in the data folder.")
    facts, train, test = token_parts(data_dir / path, sequence_length, documents, task.target_shift, reads_text_bytes=task.reads_text_bytes)
    bytes_leaf = (("2", (sequence_length,), torch.int32),) if task.reads_text_bytes and facts.has_text_bytes else ()
    is_unknown = task.reads_text_bytes and not facts.knows_text_bytes
    return Dataset(
        "tokens",
        train,
        test,
        None,
        (sequence_length,),
        input_dtype=torch.int64,
        notices=() if not is_unknown else (f"Data: {path} was made before the bytes of its text were counted: no bits_per_byte. {MAKE}",),
        sample_leaves=(*((name, (sequence_length,), torch.int64) for name in "01"), *bytes_leaf),
        for_model={"vocabulary_size": facts.vocabulary_size, "sequence_length": sequence_length},
        mask_token=facts.mask_token,
        padding_token=facts.end_of_document if documents == "padded" else None,
        bytes_per_token=facts.bytes_per_token,
    )


def _inside_scikit_learn(name: str) -> Path:
    """The folder of the data that scikit-learn brings. Importing the package itself costs longer than training on them."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("dataset.name", f"{name} come with scikit-learn, which is not installed.", "pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data"


def digits(spec: DatasetSpec, data_dir: Path) -> Dataset:
    """scikit-learn's copy of the UCI optical digits: 1,437 + 360 grey 8x8 images, embedded in that package."""
    path = _inside_scikit_learn("digits") / "digits.csv.gz"
    try:
        with gzip.open(path, "rt") as file:
            table = np.array(list(csv.reader(file)), dtype=np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(str(path), f"the digits cannot be read: {error}.", "Install scikit-learn again.") from error
    # A fixed shuffle: the file is ordered by writer, and the split must not depend on the run's seed.
    shuffled = torch.from_numpy(table)[sample_order(0, key("digits split"), len(table))]
    images = (shuffled[:, :64].reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    labels = shuffled[:, 64].to(torch.int64)
    train, test = Images(images[NUM_DIGITS_TEST:], labels[NUM_DIGITS_TEST:]), Images(images[:NUM_DIGITS_TEST], labels[:NUM_DIGITS_TEST])
    return Dataset("digits", train, test, 10, (1, 8, 8), mean=(0.3055,), std=(0.3759,))


def torchvision_set(spec: DatasetSpec, data_dir: Path) -> Dataset:
    """One of torchvision's small data sets."""
    name = spec.name or ""
    class_name, num_classes, mean, std = TORCHVISION[name]
    files = TORCHVISION_FILES[name]
    missing = [file for file in files if not (data_dir / file).is_file()]
    if missing and not spec.download:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        hint = f"Put {', '.join(files)} there, or let it be fetched with --set dataset.download=true (in a sweep's file, under `set`)."
        raise DataError("--data-dir", f"{class_name} is not in {data_dir}: {missing[0]} is missing{more}.", hint)
    train, test = (_read_torchvision(class_name, data_dir, is_train, spec.download and bool(missing)) for is_train in (True, False))
    for part, images in (("training", train), ("test", test)):
        refuse_bad_labels(images.labels, num_classes, f"{class_name} {part} labels in {data_dir}")
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        shapes = " and ".join(str(list(part.inputs.shape[1:])) for part in (train, test))
        problem = f"{class_name} in {data_dir} has training and test images of different shapes, {shapes}."
        raise DataError("--data-dir", problem, "Fetch it again.")
    return Dataset(name, train, test, num_classes, tuple(train.inputs.shape[1:]), mean, std)


def cifar10_captions(spec: DatasetSpec, data_dir: Path, task: TaskConfig) -> Dataset:
    """CIFAR-10's images, each with a caption of its class as bytes, and the number of the class where the task asks for it."""
    if not isinstance(task, ContrastiveConfig):
        raise SpecError("task", f"cifar10-captions are pairs, and the task is {task.name}.", "Set task.name=contrastive, or dataset.name=cifar10.")
    pictures = torchvision_set(spec.model_copy(update={"name": "cifar10"}), data_dir)

    def with_captions(images: Images, kind: str) -> Tensors:
        pairs = (images.inputs, captions.captions(images.labels, kind))
        return Tensors((*pairs, images.labels) if task.labels else pairs)

    leaves = (("0", pictures.input_shape, torch.uint8), ("1", (captions.LENGTH,), torch.int64), ("2", (), torch.int64))
    return Dataset(
        "cifar10-captions",
        with_captions(pictures.train, "training"),
        with_captions(pictures.test, "test"),
        None,
        pictures.input_shape,
        pictures.mean,
        pictures.std,
        sample_leaves=leaves if task.labels else leaves[:2],
        for_model={"vocabulary_size": captions.VOCABULARY_SIZE, "sequence_length": captions.LENGTH},
    )


def _read_torchvision(class_name: str, data_dir: Path, is_train: bool, download: bool) -> Images:
    from torchvision import datasets

    try:
        part = getattr(datasets, class_name)(str(data_dir), train=is_train, download=download)
    except Exception as error:  # torchvision raises whatever the parser met: ValueError, AssertionError, EOFError ...
        if download:
            hint = f"Check the network, or put the files into {data_dir} by hand."
            raise DataError("dataset.download", f"{class_name} could not be fetched: {error}.", hint) from error
        reason = str(error) or "a file is not of the kind that its name says"
        if damaged := _files_unlike_the_publishers(getattr(datasets, class_name), data_dir):
            reason = f"{', '.join(damaged)} differs from the publisher's (MD5)"
        raise DataError("--data-dir", f"{class_name} in {data_dir} is damaged: {reason}.", "Remove its files and fetch them again.") from error
    inputs = torch.as_tensor(part.data)
    inputs = inputs[:, None] if inputs.ndim == 3 else inputs.permute(0, 3, 1, 2)
    labels = torch.as_tensor(part.targets, dtype=torch.int64)
    if len(inputs) != len(labels):
        raise DataError("--data-dir", f"{class_name} in {data_dir} has {len(inputs)} images and {len(labels)} labels.", "Fetch it again.")
    return Images(inputs.contiguous(), labels)


def _files_unlike_the_publishers(kind: Any, data_dir: Path) -> list[str]:
    """Files whose MD5 sum torchvision knows (CIFAR's) and does not find."""
    from torchvision.datasets.utils import check_integrity

    known = [*getattr(kind, "train_list", []), *getattr(kind, "test_list", [])]
    return [name for name, md5 in known if not check_integrity(str(data_dir / kind.base_folder / name), md5)]


def image_folder(spec: DatasetSpec, data_dir: Path, path: str = ".", image_size: int = 224) -> Dataset:
    """Images in ImageNet's layout: PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg, read as they are needed."""
    _refuse_other_than_counts(image_size=image_size)
    if not isinstance(path, str):
        raise SpecError("dataset.arguments.path", f"must be a folder's name, not {path!r}.", "It is looked for in the data folder.")
    return load_image_folder(data_dir / path, image_size, spec.augment)


def synthetic(
    spec: DatasetSpec,
    data_dir: Path,
    num_train: int = 10_000,
    num_test: int = 1_000,
    num_classes: int = 10,
    shape: tuple[int, ...] | list[int] = (3, 32, 32),
) -> Dataset:
    """Noise around one random image per class: learnable, of any size, the same on every machine."""
    _refuse_other_than_counts(num_train=num_train, num_test=num_test, num_classes=num_classes)
    if not (isinstance(shape, (tuple, list)) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)):
        raise SpecError("dataset.arguments.shape", f"must be [channels, height, width], not {shape!r}.", "Example: [3, 32, 32].")
    generator = torch.Generator().manual_seed(key("synthetic"))
    means = torch.randint(64, 192, (num_classes, *shape), generator=generator)

    def draw(num_samples: int) -> Images:
        try:
            labels = torch.arange(num_samples) % num_classes
            inputs = torch.empty((num_samples, *shape), dtype=torch.uint8)
        except RuntimeError as error:
            size = num_samples * math.prod(shape) / 2**30
            problem = f"{num_samples} samples of {tuple(shape)} are {size:,.0f} GiB, more than this machine has."
            raise SpecError("dataset.arguments", problem, "Ask for fewer.") from error
        for start in range(0, num_samples, 4096):  # bounded memory for any size
            chosen = means[labels[start : start + 4096]]
            noise = torch.randint(-64, 64, chosen.shape, generator=generator)
            inputs[start : start + 4096] = (chosen + noise).to(torch.uint8)
        return Images(inputs, labels)

    channels = shape[0]
    return Dataset("synthetic", draw(num_train), draw(num_test), num_classes, tuple(shape), (0.5,) * channels, (0.25,) * channels)


def _refuse_other_than_counts(**arguments: Any) -> None:
    for argument, value in arguments.items():
        if type(value) is not int or value < 1:  # true is an int to isinstance
            raise SpecError(f"dataset.arguments.{argument}", f"must be a whole number above 0, not {value!r}.")


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TORCHVISION_FILES: dict[str, tuple[str, ...]] = {
    "mnist": tuple(f"MNIST/raw/{name}" for name in _IDX),
    "fashion-mnist": tuple(f"FashionMNIST/raw/{name}" for name in _IDX),
    "cifar10": tuple(f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")),
    "cifar100": tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
}
"""Files that torchvision's small data sets need in the data folder."""

TORCHVISION: dict[str, tuple[str, int, tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ("MNIST", 10, (0.1307,), (0.3081,)),
    "fashion-mnist": ("FashionMNIST", 10, (0.2860,), (0.3530,)),
    "cifar10": ("CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ("CIFAR100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Their classes in torchvision, numbers of classes, means and standard deviations of the channels."""
SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "diabetes": diabetes,
    "tokens": tokens,
    **dict.fromkeys(TORCHVISION, torchvision_set),
    "cifar10-captions": cifar10_captions,
    "image-folder": image_folder,
    "synthetic": synthetic,
}
"""By name: from what the spec says, the data folder and the spec's arguments to the data set."""
