"""The data sets: what they hold, and one useful sentence for every way in which their files can be wrong."""

import struct
import urllib.error
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import datasets

from largebatch.jobs.data.batches import DeviceBatches
from largebatch.jobs.data.sources.table import SOURCES, TORCHVISION_FILES, load_dataset
from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.model_and_data import AugmentSpec, DatasetSpec
from largebatch.jobs.tasks.registry import ContrastiveConfig, RegressionConfig

CPU = torch.device("cpu")


def load(data_dir: Path = Path("nowhere"), **spec: Any) -> Dataset:
    return load_dataset(DatasetSpec.model_validate(spec), data_dir)


def refused(data_dir: Path = Path("nowhere"), **spec: Any) -> DataError | SpecError:
    with pytest.raises((DataError, SpecError)) as error:
        load(data_dir, **spec)
    return error.value


class TestDigits:
    DIGITS = load(name="digits")

    def test_sizes_and_classes(self) -> None:
        assert (len(self.DIGITS.train), len(self.DIGITS.test)) == (1437, 360)
        assert self.DIGITS.train.inputs.shape == (1437, 1, 8, 8)
        assert self.DIGITS.train.inputs.dtype == torch.uint8
        for part in (self.DIGITS.train, self.DIGITS.test):
            assert part.labels.unique().tolist() == list(range(10))

    def test_the_same_split_on_every_call(self) -> None:
        again = load(name="digits")
        assert torch.equal(again.train.inputs, self.DIGITS.train.inputs)
        assert torch.equal(again.test.labels, self.DIGITS.test.labels)

    def test_every_image_of_scikit_learn_once_and_no_overlap(self) -> None:
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)  # pixels 0 ... 16
        theirs = sorted((*(int(v) for v in row), int(label)) for row, label in zip(inputs, labels, strict=True))
        parts = (self.DIGITS.train, self.DIGITS.test)
        pixels = torch.cat([part.inputs for part in parts]).reshape(-1, 64).double() * 16 / 255
        ours = sorted((*row, label) for row, label in zip(pixels.round().int().tolist(), torch.cat([p.labels for p in parts]).tolist(), strict=True))
        assert ours == theirs

    def test_normalisation_follows_the_training_part(self) -> None:
        scaled = self.DIGITS.train.inputs.double() / 255
        # The constants have four decimals: off by 0.00005 at most.
        assert self.DIGITS.mean[0] == pytest.approx(scaled.mean().item(), abs=5e-5)
        assert self.DIGITS.std[0] == pytest.approx(scaled.std().item(), abs=5e-5)


@pytest.fixture(scope="module")
def files_once_read() -> dict[str, Any]:
    return {name: cache(getattr(datasets, name)) for name in ("CIFAR10", "MNIST", "FashionMNIST")}


@pytest.fixture
def files_are_read_once(files_once_read: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 takes torchvision, with its check sums, a second; nobody changes what was read."""
    for name, read in files_once_read.items():
        monkeypatch.setattr(datasets, name, read)


@pytest.mark.usefixtures("files_are_read_once")
class TestRealSets:
    @pytest.mark.parametrize(
        ("name", "num_train", "shape", "per_class"),
        [("mnist", 60_000, (1, 28, 28), None), ("fashion-mnist", 60_000, (1, 28, 28), 6000), ("cifar10", 50_000, (3, 32, 32), 5000)],
    )
    def test_what_they_hold(self, image_data_dir: Path, name: str, num_train: int, shape: tuple[int, ...], per_class: int | None) -> None:
        dataset = load(image_data_dir, name=name)
        assert (len(dataset.train), len(dataset.test)) == (num_train, 10_000)
        assert (dataset.input_shape, dataset.num_classes) == (shape, 10)
        counts = dataset.train.labels.bincount().tolist()
        # MNIST's classes are of different sizes; its training set has 5,421 fives and 6,742 ones (LeCun's page).
        assert (counts == [per_class] * 10) if per_class else (min(counts), max(counts)) == (5421, 6742)
        batches = DeviceBatches(dataset.train, dataset, CPU, channels_last=False)
        total, squares, num_samples = torch.zeros(shape[0]), torch.zeros(shape[0]), 0
        for start in range(0, num_train, 5000):
            inputs, _ = batches.read(Slice(0, start, start + 5000))
            total += inputs.mean(dim=(0, 2, 3))
            squares += inputs.square().mean(dim=(0, 2, 3))
            num_samples += 1
        mean, variance = total / num_samples, squares / num_samples
        # Constants of four digits (mean / std off by 0.0001 / 0.25) and float32 sums.
        assert mean.abs().max() < 1e-3
        assert (variance - 1).abs().max() < 2e-3


def idx(path: Path, shape: tuple[int, ...], values: bytes) -> None:
    """A file in MNIST's format."""
    path.write_bytes(struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape) + values)


def labels(count: int) -> bytes:
    return bytes(index % 10 for index in range(count))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """40 training and 20 test images of MNIST's kind."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        idx(raw / f"{part}-images-idx3-ubyte", (count, 28, 28), bytes(count * 784))
        idx(raw / f"{part}-labels-idx1-ubyte", (count,), labels(count))
    return raw


class TestDamage:
    def test_whole_files_are_read(self, tmp_path: Path, mnist: Path) -> None:
        dataset = load(tmp_path, name="mnist")
        assert (len(dataset.train), len(dataset.test)) == (40, 20)

    @pytest.mark.parametrize("name", TORCHVISION_FILES)
    def test_nothing_there_says_what_to_put_where(self, tmp_path: Path, name: str) -> None:
        error = refused(tmp_path, name=name)
        assert error.field == "--data-dir"
        assert f"is not in {tmp_path}: {TORCHVISION_FILES[name][0]} is missing and {len(TORCHVISION_FILES[name]) - 1} more." in error.problem
        for file in TORCHVISION_FILES[name]:
            assert file in error.hint
        assert "--set dataset.download=true" in error.hint

    def test_one_file_missing(self, tmp_path: Path, mnist: Path) -> None:
        (mnist / "t10k-labels-idx1-ubyte").unlink()
        assert "MNIST/raw/t10k-labels-idx1-ubyte is missing." in refused(tmp_path, name="mnist").problem

    @pytest.mark.parametrize(("num_bytes", "is_idx"), [(16 + 39 * 784, True), (16, True), (3, True), (0, True), (5000, False)])
    def test_an_images_file_cut_short_or_of_another_kind(self, tmp_path: Path, mnist: Path, num_bytes: int, is_idx: bool) -> None:
        path = mnist / "train-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:num_bytes] if is_idx else b"hello" * 1000)
        error = refused(tmp_path, name="mnist")
        assert isinstance(error, DataError)
        assert f"MNIST in {tmp_path} is damaged: " in error.problem
        assert not error.problem.endswith((": .", "Error."))
        assert "fetch them again" in error.hint

    @pytest.mark.parametrize(("part", "count"), [("train", 40), ("t10k", 20)])
    def test_counts_that_differ(self, tmp_path: Path, mnist: Path, part: str, count: int) -> None:
        idx(mnist / f"{part}-labels-idx1-ubyte", (count - 1,), labels(count - 1))
        assert f"has {count} images and {count - 1} labels" in refused(tmp_path, name="mnist").problem

    def test_a_label_out_of_range(self, tmp_path: Path, mnist: Path) -> None:
        idx(mnist / "train-labels-idx1-ubyte", (40,), labels(38) + bytes([12, 200]))
        error = refused(tmp_path, name="mnist")
        assert error.problem == "label 12 of sample 38 is not in 0 ... 9 (2 of 40 labels are out of range)."
        assert "training labels" in error.field

    def test_images_of_two_shapes(self, tmp_path: Path, mnist: Path) -> None:
        idx(mnist / "t10k-images-idx3-ubyte", (20, 28, 27), bytes(20 * 28 * 27))
        assert "[1, 28, 28] and [1, 28, 27]" in refused(tmp_path, name="mnist").problem

    def test_a_damaged_cifar_file_is_named(self, tmp_path: Path, image_data_dir: Path) -> None:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        for file in (image_data_dir / "cifar-10-batches-py").iterdir():
            (folder / file.name).symlink_to(file)
        damaged = folder / "data_batch_3"
        content = bytearray(damaged.read_bytes())
        content[5000] ^= 1
        damaged.unlink()
        damaged.write_bytes(content)
        error = refused(tmp_path, name="cifar10")
        assert error.problem == f"CIFAR10 in {tmp_path} is damaged: data_batch_3 differs from the publisher's (MD5)."

    @pytest.mark.parametrize("name", ["mnist", "cifar10"])
    def test_a_download_without_a_network(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision

        def no_network(*_: Any, **__: Any) -> None:
            raise urllib.error.URLError("Name or service not known")

        for module in (torchvision.datasets.mnist, torchvision.datasets.cifar):
            monkeypatch.setattr(module, "download_and_extract_archive", no_network)
        error = refused(tmp_path, name=name, download=True)
        assert error.field == "dataset.download"
        assert "could not be fetched" in error.problem
        assert "Check the network" in error.hint
        assert str(tmp_path) in error.hint

    def test_files_that_are_there_are_not_fetched_again(self, tmp_path: Path, mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision

        monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", lambda *_, **__: pytest.fail("asked the network"))
        assert len(load(tmp_path, name="mnist", download=True).train) == 40

    def test_digits_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert refused(name="digits").hint == "pip install scikit-learn"


class TestSynthetic:
    SMALL: dict[str, Any] = {"num_train": 50, "num_test": 20, "num_classes": 4, "shape": [2, 5, 6]}  # noqa: RUF012

    def test_what_was_asked_for(self) -> None:
        dataset = load(name="synthetic", arguments=self.SMALL)
        assert dataset.train.inputs.shape == (50, 2, 5, 6)
        assert (len(dataset.test), dataset.num_classes, len(dataset.mean)) == (20, 4, 2)
        assert dataset.train.labels.bincount().tolist() == [13, 13, 12, 12]

    def test_the_same_on_every_call(self) -> None:
        first, second = (load(name="synthetic", arguments=self.SMALL) for _ in range(2))
        assert torch.equal(first.train.inputs, second.train.inputs)
        assert torch.equal(first.test.inputs, second.test.inputs)

    def test_it_can_be_learned(self) -> None:
        """The nearest class mean of the training part, found here, tells the test part's classes."""
        dataset = load(name="synthetic", arguments={**self.SMALL, "num_train": 400})
        train, test = dataset.train.inputs.double().flatten(1), dataset.test.inputs.double().flatten(1)
        means = torch.stack([train[dataset.train.labels == c].mean(dim=0) for c in range(4)])
        assert torch.equal(torch.cdist(test, means).argmin(dim=1), dataset.test.labels)

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            *(("num_train", value) for value in (0, -1, 1.5, True, "x", None, [3])),
            ("num_test", 0),
            ("num_classes", 0),
            *(("shape", value) for value in (5, "abc", [1, 2], [0, 1, 1], [1.5, 2, 2], [[1], 2, 2], [True, 2, 2])),
        ],
    )
    def test_wrong_arguments(self, argument: str, value: Any) -> None:
        error = refused(name="synthetic", arguments={argument: value})
        assert error.field == f"dataset.arguments.{argument}"
        assert f"not {value!r}." in error.problem

    def test_unknown_argument(self) -> None:
        error = refused(name="synthetic", arguments={"num_trian": 3})
        assert error.hint == "Did you mean num_train?"


def test_every_name_is_documented() -> None:
    described = DatasetSpec.model_fields["name"].description or ""
    assert all(name in described for name in SOURCES)


@pytest.mark.usefixtures("files_are_read_once")
class TestCaptions:
    """CIFAR-10's images with a caption each."""

    @staticmethod
    def load(data_dir: Path, **task: Any) -> Dataset:
        return load_dataset(DatasetSpec(name="cifar10-captions"), data_dir, ContrastiveConfig(name="contrastive", **task))

    def test_a_caption_says_what_class_the_image_is_of(self, image_data_dir: Path) -> None:
        captioned = self.load(image_data_dir, labels=True)
        pictures = load(image_data_dir, name="cifar10")
        images, tokens, labels = captioned.test.batch
        assert torch.equal(images, pictures.test.inputs)
        assert torch.equal(labels, pictures.test.labels)
        texts = [bytes(row).rstrip(b"\0").decode() for row in tokens[:500].tolist()]
        words = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
        assert all(words[label] in text.split() for text, label in zip(texts, labels.tolist(), strict=False))
        assert len({text.replace(words[label], "") for text, label in zip(texts, labels.tolist(), strict=False)}) == 6
        assert captioned.for_model == {"vocabulary_size": 256, "sequence_length": tokens.shape[1]}

    def test_images_come_normalised_and_labels_where_they_are_asked_for(self, image_data_dir: Path) -> None:
        pairs = self.load(image_data_dir)
        batch = DeviceBatches(pairs.test, pairs, CPU, channels_last=False).read(Slice(0, 0, 200))
        assert [leaf.dtype for leaf in batch] == [torch.float32, torch.int64]
        assert float(batch[0].mean().abs()) < 0.1
        assert float(batch[0].std()) == pytest.approx(1.0, abs=0.1)

    def test_a_task_without_pairs_is_refused(self, image_data_dir: Path) -> None:
        assert "cifar10-captions are pairs, and the task is classification" in str(refused(image_data_dir, name="cifar10-captions"))

    def test_augmentation_that_would_do_nothing_is_refused(self) -> None:
        assert "resized_crop: is for image folders" in str(refused(name="digits", augment={"resized_crop": True}))
        with pytest.raises(SpecError, match="resized_crop: is for image folders"):
            load_dataset(DatasetSpec(name="diabetes", augment=AugmentSpec(resized_crop=True)), Path("nowhere"), RegressionConfig(name="regression"))
