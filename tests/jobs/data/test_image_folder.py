"""Image folders: read as needed, the same samples however they are read, every fault named."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jobs.data.batches import LoaderBatches
from jobs.data.dataset import Dataset
from jobs.data.sources import load_dataset
from jobs.errors import DataError, SpecError
from jobs.plan import Slice
from jobs.spec import DatasetSpec

CPU = torch.device("cpu")
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
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with nothing wrong; not to be changed."""
    data_dir = tmp_path_factory.mktemp("images")
    write_images(data_dir / "pets")
    return data_dir


@pytest.fixture
def data_dir(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def load(data_dir: Path, arguments: dict[str, Any] | None = None, **spec: Any) -> Dataset:
    given = {"path": "pets", "image_size": 16, **(arguments or {})}
    return load_dataset(DatasetSpec.model_validate({"name": "image-folder", "arguments": given, **spec}), data_dir)


def batches(dataset: Dataset, *, num_workers: int = 0, seed: int = 3) -> LoaderBatches:
    return LoaderBatches(
        dataset.train,
        dataset,
        CPU,
        num_workers=num_workers,
        stream=lambda epoch: (Slice(number, 0, NUM_SAMPLES) for number in itertools.count(epoch)),
        channels_last=False,
        seed=seed,
    )


def read(source: LoaderBatches, cuts: list[int], epoch: int = 0) -> tuple[Tensor, Tensor]:
    """Samples from the first cut to the last, micro-batch by micro-batch."""
    parts = [source.read(Slice(epoch, start, stop)) for start, stop in itertools.pairwise(cuts)]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([labels for _, labels in parts])


def test_what_it_holds(whole: Path) -> None:
    dataset = load(whole)
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (NUM_SAMPLES, NUM_SAMPLES, 3)
    assert dataset.input_shape == (3, 16, 16)
    image, label = dataset.test[PER_CLASS]
    assert (image.shape, image.dtype, label) == ((3, 16, 16), torch.float32, 1)


def test_every_sample_once_an_epoch_in_another_order(whole: Path) -> None:
    source = batches(load(whole))
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
    def expected(self, whole: Path) -> tuple[Tensor, Tensor]:
        return read(batches(load(whole, augment=AUGMENT)), [0, NUM_SAMPLES])

    @pytest.mark.parametrize("cuts", [[0, 7, 14, 18], [0, 1, 2, 18], [0, 17, 18]])
    def test_in_any_micro_batches(self, whole: Path, expected: tuple[Tensor, Tensor], cuts: list[int]) -> None:
        inputs, labels = read(batches(load(whole, augment=AUGMENT)), cuts)
        assert torch.equal(inputs, expected[0])
        assert torch.equal(labels, expected[1])

    def test_by_any_number_of_processes(self, whole: Path, expected: tuple[Tensor, Tensor]) -> None:
        inputs, labels = read(batches(load(whole, augment=AUGMENT), num_workers=2), [0, 7, 18])
        assert torch.equal(inputs, expected[0])
        assert torch.equal(labels, expected[1])

    def test_whatever_was_drawn_before(self, whole: Path, expected: tuple[Tensor, Tensor]) -> None:
        torch.rand(17)
        inputs, _ = read(batches(load(whole, augment=AUGMENT)), [5, NUM_SAMPLES])  # as a resume does
        assert torch.equal(inputs, expected[0][5:])

    def test_but_another_seed_or_epoch_draws_anew(self, whole: Path) -> None:
        dataset = load(whole, augment=AUGMENT)
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

    def test_no_validation_part(self, data_dir: Path) -> None:
        shutil.rmtree(data_dir / "pets" / "val")
        assert f"{data_dir / 'pets' / 'val'} is not an image folder" in self.refused(data_dir).problem

    def test_classes_that_differ(self, data_dir: Path) -> None:
        (data_dir / "pets" / "val" / "eel").rename(data_dir / "pets" / "val" / "eels")
        assert "train and val hold different classes, 'eel' for one" in self.refused(data_dir).problem

    def test_a_class_without_images(self, data_dir: Path) -> None:
        (data_dir / "pets" / "train" / "fox").mkdir()
        assert "fox" in self.refused(data_dir).problem

    @pytest.mark.parametrize(("argument", "value"), [("image_size", 0), ("image_size", -1), ("image_size", 1.5), ("image_size", "x"), ("path", 5)])
    def test_wrong_arguments(self, data_dir: Path, argument: str, value: Any) -> None:
        error = self.refused(data_dir, {argument: value})
        assert error.field == f"dataset.arguments.{argument}"
        assert f"not {value!r}." in error.problem

    def test_changes_that_need_images_in_memory(self, data_dir: Path) -> None:
        assert "resized_crop" in self.refused(data_dir, augment={"translate": 2}).hint

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("content", [b"no image", b""])
    def test_an_image_that_cannot_be_read_is_named(self, data_dir: Path, content: bytes, num_workers: int) -> None:
        path = data_dir / "pets" / "train" / "dog" / "3.png"
        path.write_bytes(content)
        source = batches(load(data_dir), num_workers=num_workers)
        with pytest.raises(DataError) as error:
            read(source, [0, NUM_SAMPLES])
        assert error.value.field == str(path)
        assert "the image cannot be read" in error.value.problem

    def test_an_image_cut_short_is_named(self, data_dir: Path) -> None:
        path = data_dir / "pets" / "train" / "dog" / "3.png"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError) as error:
            read(batches(load(data_dir)), [0, NUM_SAMPLES])
        assert error.value.field == str(path)


def test_training_on_a_folder(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """End to end: brightness tells the classes, so a linear model learns them."""
    from jobs.__main__ import main

    spec = tmp_path / "pets.json"
    document = {
        "dataset": {"name": "image-folder", "arguments": {"path": "pets", "image_size": 16}, "augment": AUGMENT},
        "model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        "batch": {"global_batch_size": 9, "micro_batch_size": 9},
        "optimizer": {"name": "adamw"},
        "learning_rate": {"base": 0.01},
        "stop": {"epochs": 12},
        "evaluation": {"every_epochs": 12},
        "tracking": {"enabled": False},
    }
    spec.write_text(json.dumps(document))
    assert main([str(spec), "--data-dir", str(whole), "--output-dir", str(tmp_path / "runs"), "--device", "cpu"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["outcome"], summary["steps"], summary["samples_seen"]) == ("completed", 24, 216)
    assert summary["test_accuracy"] > 0.6  # a third by chance
