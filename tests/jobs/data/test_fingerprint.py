"""Fingerprints: the same data are the same, whatever the process; other data differ, and the first difference is named."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from largebatch.jobs.data.fingerprint import DatasetFingerprint, fingerprint
from largebatch.jobs.data.same_data import confirmed_difference, differences
from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.dataset import Dataset, Images

NUM_TRAIN, NUM_TEST, WIDTH = 90, 30, 12


def samples(num_samples: int, seed: int, dtype: torch.dtype = torch.float32) -> Images:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (num_samples, WIDTH), generator=generator).to(dtype)
    return Images(inputs, torch.randint(0, 4, (num_samples,), generator=generator))


def dataset(train: Any = None, test: Any = None, num_classes: int = 4) -> Dataset:
    train, test = train or samples(NUM_TRAIN, 1), test or samples(NUM_TEST, 2)
    first = train.inputs[0] if isinstance(train, Images) else train.part.inputs[0]
    return Dataset("made", train, test, num_classes, (WIDTH,), input_dtype=first.dtype)


class Single:
    """The same, read sample by sample."""

    def __init__(self, part: Images, change: Callable[[Tensor], Tensor] = lambda inputs: inputs) -> None:
        self.part, self.change = part, change

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.part.inputs[index]), int(self.part.labels[index])


def changed(part: Images, **others: Tensor) -> Images:
    return Images(**{"inputs": part.inputs, "labels": part.labels, **others})


def between(first_set: Dataset, second_set: Dataset, **options: int) -> str | None:
    first = next(differences(fingerprint(first_set, **options), fingerprint(second_set, **options)), None)
    return None if first is None else first.between("here", "there")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("wrap", [lambda part: part, Single])
def test_the_same_data_are_the_same_also_from_a_file(dtype: torch.dtype, wrap: Callable[[Images], Any]) -> None:
    made = dataset(wrap(samples(NUM_TRAIN, 1, dtype)), wrap(samples(NUM_TEST, 2, dtype)))
    taken = fingerprint(made)
    kept = DatasetFingerprint.model_validate_json(taken.model_dump_json())
    assert not [*differences(taken, kept)]
    assert not [*differences(fingerprint(made), kept)]


def test_what_is_not_finite_is_no_difference() -> None:
    part = samples(NUM_TRAIN, 1)
    part.inputs[:, 3], part.inputs[:, 4] = float("nan"), float("inf")
    assert between(dataset(part), dataset(part)) is None


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda inputs: inputs.T.contiguous().T,
    "sliced": lambda inputs: torch.cat([inputs, inputs], 1)[:, :WIDTH],
    "strided": lambda inputs: inputs.repeat_interleave(2, 0)[::2],
    "requires_grad": lambda inputs: inputs.clone().requires_grad_(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_layout_in_memory_is_no_difference(layout: Callable[[Tensor], Tensor]) -> None:
    part = samples(NUM_TRAIN, 1)
    assert between(dataset(part), dataset(changed(part, inputs=layout(part.inputs)))) is None


def test_rounding_is_no_difference() -> None:
    """Sums over other numbers of threads differ in the last bits, and so do the inputs that they normalise."""
    part = samples(NUM_TRAIN, 1)
    mean, std = part.inputs.mean(), part.inputs.std()
    inputs, rounded = (part.inputs - mean) / std, (part.inputs.double() - mean.double() * (1 + 2e-7)).float() / (std * (1 + 2e-7))
    assert not torch.equal(inputs, rounded)
    assert between(dataset(changed(part, inputs=inputs)), dataset(changed(part, inputs=rounded))) is None


def test_an_unseeded_split_differs() -> None:
    whole = samples(NUM_TRAIN + NUM_TEST, 1)

    def split() -> Dataset:
        order = torch.from_numpy(np.random.permutation(NUM_TRAIN + NUM_TEST))
        parts = [Images(whole.inputs[places], whole.labels[places]) for places in (order[:NUM_TRAIN], order[NUM_TRAIN:])]
        return dataset(*parts)

    np.random.seed(1)
    splits = split(), split()
    assert str(between(*splits)).startswith("the label of training sample ")
    # Labels of one class tell nothing: the inputs do.
    unlabelled = [dataset(*(changed(part, labels=torch.zeros_like(part.labels)) for part in (made.train, made.test))) for made in splits]
    assert between(*unlabelled) == "training sample 0 is another here than there"


@pytest.mark.parametrize("part", ["training", "test"])
@pytest.mark.parametrize("wrap", [lambda part: part, Single])
def test_classes_numbered_in_another_order_differ(part: str, wrap: Callable[[Images], Any]) -> None:
    made = samples(NUM_TRAIN, 1)
    other = changed(made, labels=torch.tensor([1, 0, 2, 3])[made.labels])
    name = "train" if part == "training" else "test"
    index = next(sample.index for sample in getattr(fingerprint(dataset(**{name: wrap(made)})), name).samples if made.labels[sample.index] < 2)
    label = int(made.labels[index])
    expected = f"the label of {part} sample {index} is {label} here, {1 - label} there"
    assert between(dataset(**{name: wrap(made)}), dataset(**{name: wrap(other)})) == expected


@pytest.mark.parametrize("index", range(0, NUM_TRAIN, 7))
def test_any_single_sample_of_a_small_set_is_missed(index: int) -> None:
    """Looked at one by one or not."""
    part = samples(NUM_TRAIN, 1)
    labels, inputs = part.labels.clone(), part.inputs.clone()
    labels[index] = (labels[index] + 1) % 4
    inputs[index] = inputs[index].flip(0)
    assert "label" in str(between(dataset(part), dataset(changed(part, labels=labels))))
    assert "training sample" in str(between(dataset(part), dataset(changed(part, inputs=inputs))))


def test_a_set_too_large_to_be_looked_at_whole() -> None:
    part = samples(NUM_TRAIN, 1)
    taken = fingerprint(dataset(part), most_held_numbers=100)
    assert taken.train.sketch is None
    assert len(taken.train.samples) > 20  # of 64 draws among 90
    shuffled = torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(0))
    other = dataset(changed(part, inputs=part.inputs[shuffled]))
    assert between(dataset(part), other, most_held_numbers=100) == "training sample 0 is another here than there"


@pytest.mark.parametrize(
    ("other", "words", "is_of_form"),
    [
        ({"train": samples(NUM_TRAIN + 45, 1)}, "90 training samples here, 135 there", True),
        ({"test": samples(NUM_TEST - 1, 2)}, "30 test samples here, 29 there", False),
        ({"num_classes": 5}, "4 classes here, 5 there", True),
        ({"train": samples(NUM_TRAIN, 1, torch.float64)}, "training sample 0 is (12,) float32 here, (12,) float64 there", False),
    ],
)
def test_form_comes_first(other: dict[str, Any], words: str, is_of_form: bool) -> None:
    first = next(differences(fingerprint(dataset()), fingerprint(dataset(**other))))
    assert (first.between("here", "there"), first.is_of_form) == (words, is_of_form)


def test_taking_it_draws_from_nobodys_generators() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    fingerprint(dataset(Single(samples(NUM_TRAIN, 1), lambda inputs: inputs + torch.rand(()) + random.random() + np.random.rand())))
    assert draws() == expected


OWN, RARELY, SYSTEM = np.random.default_rng(1), np.random.default_rng(2), random.SystemRandom()
AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": lambda inputs: inputs + torch.rand(()),
    "numpy": lambda inputs: inputs * float(np.random.rand()),
    "python": lambda inputs: inputs.flip(0) if random.random() < 0.5 else inputs,
    "own generator": lambda inputs: inputs * float(OWN.random()),
    "own generator, rarely": lambda inputs: inputs.flip(0) if RARELY.random() < 0.3 else inputs,
    "operating system": lambda inputs: inputs.roll(SYSTEM.randrange(9)),
}


@pytest.mark.parametrize("change", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_what_samples_draw_is_no_difference(change: Callable[[Tensor], Tensor]) -> None:
    made = dataset(Single(samples(NUM_TRAIN, 1), change))
    for _ in range(5):
        assert confirmed_difference(made, fingerprint(made), fingerprint(made)) is None
    relabelled = changed(samples(NUM_TRAIN, 1), labels=torch.arange(NUM_TRAIN) % 4)
    first = confirmed_difference(made, fingerprint(made), fingerprint(dataset(Single(relabelled, change))))
    assert first.kind == "labels"


def test_other_samples_are_a_difference_where_samples_draw_from_what_is_seeded() -> None:
    made, other = (dataset(Single(samples(NUM_TRAIN, seed), AUGMENTATIONS["python"])) for seed in (1, 3))
    other.train.part.labels[:] = made.train.part.labels
    first = confirmed_difference(made, fingerprint(made), fingerprint(other))
    assert first.words.startswith("training sample ")


def test_a_sample_that_cannot_be_read_is_named() -> None:
    def fail(inputs: Tensor) -> Tensor:
        raise OSError("truncated")

    with pytest.raises(DataError, match=r"sample 0.*OSError: truncated"):
        fingerprint(dataset(Single(samples(3, 1), fail)))
