"""Micro-batches: the order's samples, normalised by hand, the same whatever was read before."""

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import CPU, Samples, planned, state_of
from torch import Tensor, nn

from largebatch.jobs.data.batches import Batches, DeviceBatches, fits_on
from largebatch.jobs.data.loaders import LoaderBatches, Stream
from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import DataError
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.samples.dataset import Dataset, Images
from largebatch.jobs.samples.keyed_random import sample_order
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.model_and_data import AugmentSpec
from largebatch.jobs.tasks.classification import Classification

NUM_SAMPLES = 70  # more than two of the reader's chunks


def listed(index: int, noise: float = 0.0) -> tuple[Tensor, int]:
    """A sample that tells its index, with a draw of its own if it is noisy."""
    return torch.tensor([float(index), noise]), index % 3


def noisy(index: int) -> tuple[Tensor, int]:
    return listed(index, float(torch.rand(())))


def epochs_of(num_samples: int) -> Stream:
    """The stream of one rank that reads so many samples of each epoch."""
    return lambda epoch: (Slice(number, 0, num_samples) for number in itertools.count(epoch))


def listed_dataset(part: Any) -> Dataset:
    return Dataset("listed", part, part, 3, (2,))


def loader(sample: Callable[[int], Any], seed: int = 1, **options: Any) -> LoaderBatches:
    part = Samples(NUM_SAMPLES, sample)
    options = {"num_workers": 0, "stream": epochs_of(NUM_SAMPLES), "channels_last": False, **options}
    return LoaderBatches(part, listed_dataset(part), CPU, seed=seed, **options)


def pictures(num_samples: int = 10) -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (num_samples, 2, 3, 3), generator=generator, dtype=torch.uint8), torch.arange(num_samples) % 3)


def on_device(images: Images, augment_spec: AugmentSpec | None = None, channels_last: bool = False, seed: int = 0) -> DeviceBatches:
    dataset = Dataset("pictures", images, images, 3, (2, 3, 3), (0.5, 0.25), (0.2, 0.1))
    return DeviceBatches(images, dataset, CPU, channels_last=channels_last, seed=seed, augment_spec=augment_spec)


def cut(batches: Batches, epoch: int, stops: list[int]) -> list[tuple[Tensor, Tensor]]:
    return [batches.read(Slice(epoch, start, stop)) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


# ---- sets that are held whole -----------------------------------------------------------------------------------------


def test_images_are_normalised_by_mean_and_deviation() -> None:
    images = pictures()
    inputs, labels = on_device(images).read(Slice(0, 2, 9))
    assert inputs.dtype == torch.float32
    assert torch.equal(labels, images.labels[2:9])
    for channel, (mean, std) in enumerate([(0.5, 0.2), (0.25, 0.1)]):
        expected = (images.inputs[2:9, channel].double() / 255 - mean) / std
        # float32: three roundings of numbers up to 7.5, each 6e-8 of them.
        torch.testing.assert_close(inputs[:, channel].double(), expected, rtol=0, atol=2e-6)


def test_inputs_that_are_no_bytes_are_left_as_they_are() -> None:
    images = Images(torch.randn(6, 4), torch.zeros(6, dtype=torch.int64))
    batches = DeviceBatches(images, Dataset("own", images, images, 1, (4,)), CPU, channels_last=True)
    assert torch.equal(batches.read(Slice(0, 1, 5))[0], images.inputs[1:5])


@pytest.mark.parametrize("augment_spec", [None, AugmentSpec()], ids=str)
def test_a_model_that_overwrites_its_input_does_not_overwrite_the_set(augment_spec: AugmentSpec | None) -> None:
    """A first layer may work in place."""
    images = Images(torch.randn(6, 4), torch.zeros(6, dtype=torch.int64))
    held = images.inputs.clone()
    batches = DeviceBatches(images, Dataset("own", images, images, 1, (4,)), CPU, channels_last=False, augment_spec=augment_spec)
    batches.read(Slice(0, 1, 5))[0].zero_()
    assert torch.equal(images.inputs, held)


@pytest.mark.parametrize("stops", [[10], [3, 10], [1, 2, 9, 10]], ids=str)
def test_training_reads_the_epochs_order(stops: list[int]) -> None:
    images = pictures()
    batches, unchanged = on_device(images, AugmentSpec(), seed=4), on_device(images).read(Slice(0, 0, 10))[0]
    for epoch in (0, 1, 0):
        parts = cut(batches, epoch, stops)
        order = sample_order(4, epoch, 10)
        assert torch.equal(torch.cat([inputs for inputs, _ in parts]), unchanged[order])
        assert torch.equal(torch.cat([labels for _, labels in parts]), images.labels[order])


def test_augmented_samples_do_not_depend_on_the_cut() -> None:
    batches = on_device(pictures(), AugmentSpec(horizontal_flip="random", translate=1, cutout=1))
    whole = batches.read(Slice(2, 0, 10))[0]
    assert torch.equal(torch.cat([inputs for inputs, _ in cut(batches, 2, [1, 4, 10])]), whole)
    assert torch.equal(batches.read(Slice(2, 5, 7))[0], whole[5:7])


@pytest.mark.parametrize("augment_spec", [None, AugmentSpec(), AugmentSpec(translate=1)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_layout_is_as_asked_and_the_set_is_not_changed(channels_last: bool, augment_spec: AugmentSpec | None) -> None:
    images = pictures()
    held = images.inputs.clone()
    inputs, _ = on_device(images, augment_spec, channels_last).read(Slice(0, 0, 4))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert inputs.is_contiguous(memory_format=layout)
    assert torch.equal(images.inputs, held)


def test_host_memory_takes_any_size() -> None:
    assert fits_on(CPU, 1 << 60)


# ---- sets that are read sample by sample ------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[70], [1, 33, 34, 70], list(range(7, 71, 7))], ids=str)
def test_the_reader_follows_the_epochs_order(stops: list[int]) -> None:
    batches = loader(listed)
    for epoch in range(3):
        parts = cut(batches, epoch, stops)
        assert [len(labels) for _, labels in parts] == [b - a for a, b in zip([0, *stops[:-1]], stops, strict=True)]
        order = sample_order(1, epoch, NUM_SAMPLES)
        assert torch.equal(torch.cat([inputs for inputs, _ in parts])[:, 0].long(), order)
        assert torch.equal(torch.cat([labels for _, labels in parts]), order % 3)


def test_the_reader_without_shuffling_follows_the_file() -> None:
    inputs, _ = loader(listed, shuffles=False).read(Slice(0, 3, 40))
    assert inputs[:, 0].tolist() == list(range(3, 40))


def test_the_reader_drops_what_the_plan_drops() -> None:
    batches = loader(listed, stream=epochs_of(64))
    for epoch in range(2):
        inputs = torch.cat([inputs for inputs, _ in cut(batches, epoch, [32, 64])])
        assert torch.equal(inputs[:, 0].long(), sample_order(1, epoch, NUM_SAMPLES)[:64])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_samples_own_draws_depend_on_epoch_and_index_alone(num_workers: int) -> None:
    whole = loader(noisy).read(Slice(2, 0, NUM_SAMPLES))[0]
    torch.rand(5)
    batches = loader(noisy, num_workers=num_workers)
    assert torch.equal(batches.read(Slice(2, 50, 60))[0], whole[50:60]), "out of turn, as after a resume"
    assert torch.equal(batches.read(Slice(2, 60, 70))[0], whole[60:])
    assert len(set(whole[:, 1].tolist())) == NUM_SAMPLES
    again = loader(noisy).read(Slice(3, 0, NUM_SAMPLES))[0]
    assert not set(again[:, 1].tolist()) & set(whole[:, 1].tolist())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_reading_processes_leave_the_terminal_to_the_trainer(number: signal.Signals) -> None:
    """Ctrl-C goes to all of them, and so does the end of a terminal; the trainer finishes its step, for which it needs what they read."""

    def asked(index: int) -> tuple[Tensor, int]:
        return torch.zeros(2), int(signal.getsignal(number) is signal.SIG_IGN)

    before = signal.signal(number, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    try:
        assert loader(asked, num_workers=1).read(Slice(0, 0, NUM_SAMPLES))[1].tolist() == [1] * NUM_SAMPLES
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("part", ["input", "label"])
def test_a_sample_that_cannot_be_read_is_named(part: str) -> None:
    def torn(index: int) -> tuple[Tensor, int]:
        if index != 37:
            return listed(index)
        if part == "label":
            return torch.zeros(2), 3
        raise OSError("cut short")

    with pytest.raises(DataError, match="37"):
        loader(torn).read(Slice(0, 0, NUM_SAMPLES))


def test_samples_of_two_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"training sample \d+ has shape \(1,\)"):
        loader(lambda index: (torch.zeros(1 + index % 2), 0)).read(Slice(0, 0, NUM_SAMPLES))


# ---- the plan's own slices, and dropout beside the reader's draws -----------------------------------------------------


def dropout_plan(**batch: Any) -> Any:
    return planned(NUM_SAMPLES, batch={"global_batch_size": 20, "micro_batch_size": 20, **batch}, stop={"epochs": 3.0})


def test_a_reader_that_starts_in_the_middle_leaves_dropout_the_same() -> None:
    # Reading seeds and draws, too; after a resume it reads other samples ahead than a run that never stopped.
    plan = dropout_plan()
    gradients: list[tuple[int, Tensor | None]] = []
    for first in (0, 20):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3))
        state = state_of(model, torch.optim.SGD(model.parameters()), 20, task=Classification(10))
        batches = loader(noisy)
        for start in range(first, 60, 20):
            accumulate(state, plan.spec, plan.step_at(Position(0, start)), batches)
            gradients.append((start, model[1].weight.grad))
    uninterrupted = dict(gradients[:3])
    for start, gradient in gradients[3:]:
        assert torch.equal(gradient, uninterrupted[start])


def test_the_reader_gives_a_changing_batch_the_plans_samples() -> None:
    from largebatch.jobs.preparing.batches import training_batches

    plan = dropout_plan(last="drop", schedule={"growth": [{"epoch": 1.0, "factor": 1.75}]})
    assert {batch.stop for batch in plan.batches() if batch.epoch == 1} == {35, 70}

    class Job:
        spec, device, ranks = plan.spec, CPU, Ranks(CPU)
        dataset = listed_dataset(Samples(NUM_SAMPLES, listed))

    Job.plan = plan  # type: ignore[attr-defined]
    batches = training_batches(Job)  # type: ignore[arg-type]
    for samples in plan.batches():
        order = sample_order(plan.spec.seed, samples.epoch, NUM_SAMPLES)
        assert torch.equal(batches.read(samples)[0][:, 0].long(), order[samples.start : samples.stop])


@pytest.mark.parametrize("first_epoch", [-1, 0, 5])
def test_an_epoch_of_any_number_is_read_first_and_out_of_turn(first_epoch: int) -> None:
    """No number stands for nothing read yet."""
    batches, expected = loader(listed), sample_order(1, first_epoch, NUM_SAMPLES)
    for start, stop in ((0, 40), (33, 60)):
        inputs, _ = batches.read(Slice(first_epoch, start, stop))
        assert inputs[:, 0].long().tolist() == expected[start:stop].tolist()
