"""Image folders: read as needed, the same samples however they are read, every fault named."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import CPU, document
from torch import Tensor

from largebatch.jobs.data.loaders import LoaderBatches
from largebatch.jobs.data.sources.image_folder import list_images
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.model_and_data import DatasetSpec

CLASSES, PER_CLASS = ("cat", "dog", "eel"), 6
NUM_SAMPLES = len(CLASSES) * PER_CLASS
AUGMENT = {"resized_crop": True, "horizontal_flip": "random"}


def write_images(root: Path, classes: tuple[str, ...] = CLASSES) -> None:
    """Small noise around one brightness per class, so that a model can tell them."""
    noise = np.random.default_rng(0)
    for part in ("train", "val"):
        for number, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(PER_CLASS):
                pixels = noise.integers(0, 60, (20, 24, 3)) + 90 * number
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{index}.png")


@pytest.fixture(scope="module")
def intact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with nothing wrong; not to be changed."""
    data_dir = tmp_path_factory.mktemp("images")
    write_images(data_dir / "pets")
    return data_dir


@pytest.fixture
def data_dir(intact_dir: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(intact_dir, tmp_path / "data")
    return tmp_path / "data"


def load(data_dir: Path, arguments: dict[str, Any] | None = None, **spec: Any) -> Dataset:
    document = {"name": "image-folder", "arguments": {"path": "pets", "image_size": 16, **(arguments or {})}, **spec}
    return load_dataset(DatasetSpec.model_validate(document), data_dir)


def batches(dataset: Dataset, *, num_workers: int = 0, seed: int = 3) -> LoaderBatches:
    stream = lambda epoch: (Slice(number, 0, NUM_SAMPLES) for number in itertools.count(epoch))  # noqa: E731
    return LoaderBatches(dataset.train, dataset, CPU, num_workers=num_workers, stream=stream, channels_last=False, seed=seed)


def read(source: LoaderBatches, cuts: list[int], epoch: int = 0) -> tuple[Tensor, Tensor]:
    """Samples from the first cut to the last, micro-batch by micro-batch."""
    parts = [source.read(Slice(epoch, start, stop)) for start, stop in itertools.pairwise(cuts)]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([labels for _, labels in parts])


def test_what_it_holds(intact_dir: Path) -> None:
    dataset = load(intact_dir)
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (NUM_SAMPLES, NUM_SAMPLES, 3)
    assert dataset.input_shape == (3, 16, 16)
    image, label = dataset.test[PER_CLASS]
    assert (image.shape, image.dtype, label) == ((3, 16, 16), torch.float32, 1)


def test_every_sample_once_an_epoch_in_another_order(intact_dir: Path) -> None:
    source = batches(load(intact_dir))
    first, labels = read(source, [0, NUM_SAMPLES])
    second, _ = read(source, [0, NUM_SAMPLES], epoch=1)
    assert labels.bincount().tolist() == [PER_CLASS] * 3
    sums = [sorted(part.double().sum(dim=(1, 2, 3)).tolist()) for part in (first, second)]
    assert sums[0] == sums[1]
    assert len(set(sums[0])) == NUM_SAMPLES
    assert not torch.equal(first, second)


class TestTheSameSamples:
    """What is read for (seed, epoch, index) depends on nothing else."""

    @pytest.fixture
    def expected(self, intact_dir: Path) -> tuple[Tensor, Tensor]:
        return read(batches(load(intact_dir, augment=AUGMENT)), [0, NUM_SAMPLES])

    @pytest.mark.parametrize(("cuts", "num_workers"), [([0, 7, 14, 18], 0), ([0, 1, 2, 18], 0), ([0, 17, 18], 0), ([0, 7, 18], 2)])
    def test_in_any_micro_batches_by_any_number_of_processes(
        self, intact_dir: Path, expected: tuple[Tensor, Tensor], cuts: list[int], num_workers: int
    ) -> None:
        inputs, labels = read(batches(load(intact_dir, augment=AUGMENT), num_workers=num_workers), cuts)
        assert torch.equal(inputs, expected[0])
        assert torch.equal(labels, expected[1])

    def test_whatever_was_drawn_before(self, intact_dir: Path, expected: tuple[Tensor, Tensor]) -> None:
        torch.rand(17)
        inputs, _ = read(batches(load(intact_dir, augment=AUGMENT)), [5, NUM_SAMPLES])  # as a resume does
        assert torch.equal(inputs, expected[0][5:])

    def test_but_another_seed_or_epoch_draws_anew(self, intact_dir: Path) -> None:
        dataset = load(intact_dir, augment=AUGMENT)
        by_seed = [read(batches(dataset, seed=seed), [0, NUM_SAMPLES])[0] for seed in (3, 4)]
        assert not torch.equal(by_seed[0], by_seed[1])
        source = batches(dataset)
        crops = [{tuple(row) for row in read(source, [0, NUM_SAMPLES], epoch)[0].flatten(1)[:, :9].tolist()} for epoch in (0, 1)]
        assert crops[0] != crops[1]


class TestFaults:
    def refused(self, data_dir: Path, arguments: dict[str, Any] | None = None, **spec: Any) -> DataError | SpecError:
        with pytest.raises((DataError, SpecError)) as error:
            load(data_dir, arguments, **spec)
        return error.value

    def test_no_folder(self, data_dir: Path) -> None:
        error = self.refused(data_dir, {"path": "elsewhere"})
        assert f"{data_dir / 'elsewhere' / 'train'} is not an image folder" in error.problem
        assert "PATH/train/CLASS/image.jpg" in error.hint

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda pets: shutil.rmtree(pets / "val"), "pets/val is not an image folder"),
            (lambda pets: (pets / "val/eel").rename(pets / "val/eels"), "train and val hold different classes, 'eel' for one"),
            (lambda pets: (pets / "train/fox").mkdir(), "a folder fox without images"),
            (lambda pets: (pets / "train/cat/9.png").symlink_to("nowhere.png"), "9.png is no file, or a link to nothing"),
            *((lambda pets, to=to: (pets / "train/cat/more").symlink_to(to), "is the same folder as") for to in ("..", ".", "../../..", "../dog")),
            (lambda pets: [(pets / part / "fox").symlink_to("dog") for part in ("train", "val")], "fox is the same folder as"),
        ],
    )
    def test_a_damaged_folder(self, data_dir: Path, damage: Callable[[Path], object], problem: str) -> None:
        damage(data_dir / "pets")
        assert problem in self.refused(data_dir).problem

    def test_no_class(self, data_dir: Path) -> None:
        for name in CLASSES:
            shutil.rmtree(data_dir / "pets" / "train" / name)
        (data_dir / "pets" / "train" / "0.png").touch()
        assert "it holds no folder of a class" in self.refused(data_dir).problem

    @pytest.mark.parametrize(("argument", "value"), [("image_size", 0), ("image_size", -1), ("image_size", 1.5), ("image_size", "x"), ("path", 5)])
    def test_wrong_arguments(self, data_dir: Path, argument: str, value: Any) -> None:
        error = self.refused(data_dir, {argument: value})
        assert error.field == f"dataset.arguments.{argument}"
        assert f"not {value!r}." in error.problem

    def test_changes_that_need_images_in_memory(self, data_dir: Path) -> None:
        assert "resized_crop" in self.refused(data_dir, augment={"translate": 2}).hint

    @pytest.mark.parametrize(("num_workers", "content"), [(0, b"no image"), (2, b"no image"), (0, b""), (2, b""), (0, None)])
    def test_an_image_that_cannot_be_read_is_named(self, data_dir: Path, content: bytes | None, num_workers: int) -> None:
        path = data_dir / "pets" / "train" / "dog" / "3.png"
        path.write_bytes(path.read_bytes()[:200] if content is None else content)  # None: cut short
        source = batches(load(data_dir), num_workers=num_workers)
        with pytest.raises(DataError) as error:
            read(source, [0, NUM_SAMPLES])
        assert error.value.field == str(path)
        assert "the image cannot be read" in error.value.problem


class TestListing:
    def test_the_order_is_torchvisions(self, data_dir: Path) -> None:
        """A run that began on an earlier listing goes on with the same samples."""
        from torchvision.datasets import ImageFolder

        root = data_dir / "pets" / "train"
        for place in ("cat/b", "cat/b/a", "cat/B", "cat/b.c", "dog/1/2"):
            (root / place).mkdir(parents=True)
            for name in ("z.png", "A.JPG", "10.png", "9.png"):
                shutil.copy(root / "cat" / "0.png", root / place / name)
        (root / "eel").rename(data_dir / "eel")
        (root / "eel").symlink_to(data_dir / "eel")
        theirs = ImageFolder(str(root))
        ours = list_images(root)
        assert (ours.samples, ours.classes, ours.left_out) == (theirs.samples, theirs.classes, [])

    def test_what_is_left_out_is_said(self, data_dir: Path) -> None:
        for part in ("train", "val"):
            for hidden in (".ipynb_checkpoints", "__MACOSX"):
                shutil.copytree(data_dir / "pets" / part / "cat", data_dir / "pets" / part / hidden)
        (data_dir / "pets" / "train" / "cat" / ".thumbs").mkdir()
        shutil.copy(data_dir / "pets" / "train" / "cat" / "0.png", data_dir / "pets" / "train" / "cat" / "._0.png")
        (data_dir / "pets" / "train" / "cat" / "names.csv").touch()
        (data_dir / "pets" / "train" / "0.png").touch()
        dataset = load(data_dir)
        assert (dataset.num_classes, len(dataset.train), len(dataset.test)) == (3, NUM_SAMPLES, NUM_SAMPLES)
        root = data_dir / "pets"
        reason = "hidden, outside of the classes' folders, or not named as an image."
        assert dataset.notices == (
            f"Data: 6 files and folders, such as .ipynb_checkpoints, are left out of {root / 'train'}: {reason}",
            f"Data: 2 files and folders, such as .ipynb_checkpoints, are left out of {root / 'val'}: {reason}",
        )

    def test_pictures_of_every_kind_are_samples(self, data_dir: Path) -> None:
        root = data_dir / "pets" / "train" / "cat"
        picture = Image.open(root / "0.png")
        for name in ("a.GIF", "b.webp", "c.jfif", "d.BMP", "e.Tiff"):
            picture.save(root / name, format="JPEG" if name == "c.jfif" else None)
        dataset = load(data_dir)
        assert (len(dataset.train), dataset.notices) == (NUM_SAMPLES + 5, ())
        expected = dataset.train[0][0]
        # A GIF has 256 colours, JPEG and WebP are not exact; a deviation of 1 is 0.23 of the range.
        assert all((dataset.train[PER_CLASS + more][0] - expected).abs().mean() < 0.25 for more in range(5))

    def test_sixteen_bits_are_read_as_eight(self, data_dir: Path) -> None:
        """The same picture in 8 and in 16 bits, through the same transforms."""
        root = data_dir / "pets" / "train" / "cat"
        grey = np.random.default_rng(1).integers(0, 256, (20, 24))
        Image.fromarray(grey.astype(np.uint8)).save(root / "0.png")
        Image.fromarray((grey * 257).astype(np.uint16)).save(root / "1.png")
        part = load(data_dir).train
        # Resizing rounds to 8 bits in the first alone: by at most 1/255 of a range that a deviation is 0.22 of.
        assert (part[0][0] - part[1][0]).abs().max() < 1.5 / 255 / 0.22


def test_training_on_a_folder(intact_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """End to end: brightness tells the classes, so a linear model learns them."""
    from largebatch.jobs.__main__ import main

    spec = tmp_path / "pets.json"
    run = document(
        dataset={"name": "image-folder", "arguments": {"path": "pets", "image_size": 16}, "augment": AUGMENT},
        model={"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        batch={"global_batch_size": 9, "micro_batch_size": 9},
        optimizer={"name": "adamw"},
        learning_rate={"base": 0.01},
        stop={"epochs": 12},
        evaluation={"every_epochs": 12},
    )
    spec.write_text(json.dumps(run))
    assert main([str(spec), "--data-dir", str(intact_dir), "--output-dir", str(tmp_path / "runs"), "--device", "cpu"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["outcome"], summary["steps"], summary["samples_seen"]) == ("completed", 24, 216)
    assert summary["score"] > 0.6  # a third by chance
