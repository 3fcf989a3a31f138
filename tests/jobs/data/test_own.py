"""A person's own data set is read as torch would read it, sample by sample, or refused in a sentence that names what is wrong."""

import itertools
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CPU, Samples
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, StackDataset, Subset, TensorDataset, random_split
from torch.utils.data import Dataset as TorchDataset

from largebatch.jobs.data.batches import DeviceBatches
from largebatch.jobs.data.loaders import LoaderBatches
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.samples.dataset import Dataset, Images
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.tasks.registry import (
    ClassificationConfig,
    LanguageModellingConfig,
    MaskedLanguageModellingConfig,
    MultiLabelConfig,
    OwnTaskConfig,
    TaskConfig,
)

NUM_SAMPLES, NUM_CLASSES = 40, 3
INPUTS = torch.randn(NUM_SAMPLES, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM_SAMPLES) % NUM_CLASSES
PICTURES = torch.randint(0, 256, (NUM_SAMPLES, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def plain(inputs: Tensor = INPUTS, labels: Tensor = LABELS) -> TensorDataset:
    return TensorDataset(inputs, labels)


class Single(TorchDataset[Any]):
    """Read one by one; `change` makes of sample 7, or of all, what it likes."""

    num_classes: Any = NUM_CLASSES

    def __init__(self, change: Callable[[Tensor, int], Any] = lambda inputs, label: (inputs, label), only: int | None = None) -> None:
        self.change, self.only = change, only

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        sample = INPUTS[index], int(LABELS[index])
        return self.change(*sample) if self.only in {None, index} else sample


def load(monkeypatch: pytest.MonkeyPatch, returned: Any, task: TaskConfig | None = None, **spec: Any) -> Dataset:
    module = types.ModuleType("odd_data")
    module.load = lambda: returned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_data", module)
    return load_dataset(DatasetSpec.model_validate({"entry_point": "odd_data:load", **spec}), Path("nowhere"), task)


def refused(monkeypatch: pytest.MonkeyPatch, returned: Any, field: str = "dataset.entry_point", **spec: Any) -> str:
    with pytest.raises((DataError, SpecError)) as error:
        load(monkeypatch, returned, **spec)
    assert error.value.field == field
    return str(error.value)


def everything(dataset: Dataset, part: Any) -> tuple[Tensor, Tensor]:
    """All samples of a part as the model gets them in evaluation."""
    if isinstance(part, Images):
        return DeviceBatches(part, dataset, CPU, channels_last=False).read(Slice(0, 0, len(part)))
    whole = Slice(0, 0, len(part))
    return LoaderBatches(part, dataset, CPU, num_workers=0, stream=lambda epoch: itertools.repeat(whole), channels_last=False, shuffles=False).read(
        whole
    )


# ---- torch's own classes, and classes of them ---------------------------------------------------------------------------


class OwnItem(TensorDataset):
    num_classes = NUM_CLASSES

    def __getitem__(self, index: Any) -> Any:
        inputs, label = super().__getitem__(index)
        return inputs / 100, 2 - label


class OwnItems(OwnItem):
    """Its items are what torch's DataLoader asks for; both ways give the same."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class OwnLength(TensorDataset):
    num_classes = NUM_CLASSES

    def __len__(self) -> int:
        return 11


class Named(TensorDataset):
    """Other in name alone."""


def with_classes(part: Any) -> Any:
    part.num_classes = NUM_CLASSES
    return part


KINDS: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "a class without changes": lambda: Named(INPUTS, LABELS),
    "its own item": lambda: OwnItem(INPUTS, LABELS),
    "its own items": lambda: OwnItems(INPUTS, LABELS),
    "its own length": lambda: OwnLength(INPUTS, LABELS),
    "a subset": lambda: Subset(plain(), [5, 3, 30, 3]),
    "a subset of its own item": lambda: Subset(OwnItem(INPUTS, LABELS), range(10, 20)),
    "a subset of a subset": lambda: Subset(Subset(plain(), range(20)), [4, 2, 7]),
    "a random split": lambda: random_split(Single(), [30, 10])[0],
    "concatenated": lambda: ConcatDataset([plain(), Single(), OwnItem(INPUTS, LABELS)]),
    "stacked": lambda: with_classes(StackDataset(INPUTS, LABELS.tolist())),
    "one by one": Single,
    "truth values": lambda: plain(labels=LABELS > 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_gives_its_samples(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = KINDS[kind]()
    dataset = load(monkeypatch, [part, part])  # a list of two does as well
    inputs, labels = everything(dataset, dataset.test)
    expected = [part[index] for index in range(len(part))]
    assert torch.equal(inputs, torch.stack([sample for sample, _ in expected]))
    assert labels.tolist() == [int(label) for _, label in expected]
    assert dataset.num_classes == (2 if kind == "truth values" else NUM_CLASSES)
    assert dataset.is_in_memory == (kind in {"plain", "a class without changes", "truth values"})
    assert (dataset.input_shape, dataset.input_dtype) == ((4,), torch.float32)


@pytest.mark.parametrize("is_nested", [False, True])
def test_what_only_batches_would_change_is_refused(is_nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Batched(TensorDataset):
        num_classes = NUM_CLASSES

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(self[index][0], 2 - self[index][1]) for index in indices]

    part = Batched(INPUTS, LABELS)
    sentence = refused(monkeypatch, (ConcatDataset([Subset(part, range(9))]) if is_nested else part, plain()))
    assert "(Batched) has a __getitems__ of its own and no __getitem__ beside it" in sentence


# ---- uint8 images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["train", "test", "both", "none"])
def test_both_parts_are_normalised_or_neither_is(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (
        plain(PICTURES) if held in {part, "both"} else Samples(NUM_SAMPLES, lambda index: (PICTURES[index], int(LABELS[index])))
        for part in ("train", "test")
    )
    dataset = load(monkeypatch, (train, test))
    expected = PICTURES if held == "none" else ((PICTURES.double() / 255 - 0.5) / 0.25).float()
    for part in (dataset.train, dataset.test):
        inputs, _ = everything(dataset, part)
        assert inputs.dtype == dataset.input_dtype == expected.dtype
        # Two roundings of numbers up to 2, by float32's 6e-8.
        assert (inputs.double() - expected.double()).abs().max() < 5e-7


AUGMENTS: list[dict[str, Any]] = [{"translate": 2}, {"cutout": 2}, {"horizontal_flip": "random"}, {"horizontal_flip": "alternating"}]


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_images_held_whole_can_be_augmented_and_nothing_else(augment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, (plain(PICTURES), plain(PICTURES)), augment=augment).is_in_memory
    sentence = refused(monkeypatch, (plain(), plain()), "dataset.augment", augment=augment)
    assert "changes images (channels, height, width), and these samples are (4,)" in sentence


@pytest.mark.parametrize("option", ["translate", "cutout"])
def test_augmentation_leaves_something_of_each_image(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = min(PICTURES.shape[-2:])
    assert load(monkeypatch, (plain(PICTURES), plain(PICTURES)), augment={option: side - 1}).is_in_memory
    sentence = refused(monkeypatch, (plain(PICTURES), plain(PICTURES)), f"dataset.augment.{option}", augment={option: side})
    assert "leaves nothing of some images" in sentence


@pytest.mark.parametrize("augment", [*AUGMENTS, {"resized_crop": True}], ids=str)
def test_sets_read_one_by_one_augment_themselves(augment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "your own data set augments itself" in refused(monkeypatch, (Single(), Single()), "dataset.augment", augment=augment)


# ---- labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [np.int64, np.uint8, torch.tensor, lambda label: torch.tensor([label]), lambda label: np.array([label]), lambda label: np.array(label)]
)
def test_whole_numbers_of_every_kind_are_labels(kind: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    part = Single(lambda inputs, label: (inputs, kind(label)))
    dataset = load(monkeypatch, (part, part))
    assert torch.equal(everything(dataset, dataset.train)[1], LABELS)


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        *((kind(0.6), "is 0.6, a floating-point number") for kind in (float, np.float32, torch.tensor)),
        (2.0, "is 2, a floating-point number"),
        (torch.tensor([1.0]), "is 1, a floating-point number"),
        (torch.tensor([0, 1, 0]), "is a Tensor of shape (3,); it must be one whole number. Give the number of its class: of a one-hot vector"),
        (np.array([0, 1]), "is a ndarray of shape (2,)"),
        ([0, 1], "is a list;"),
        ("2", "is the text '2'"),
        (None, "is a NoneType"),
        (1j, "is a complex"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("part", ["training", "test"])
def test_other_labels_are_refused_before_training(label: Any, problem: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"training": Single(), "test": Single(), part: Single(lambda inputs, _: (inputs, label))}
    assert f"the label of {part} sample 0 {problem}" in refused(monkeypatch, (parts["training"], parts["test"]))


@pytest.mark.parametrize("labels", [LABELS.float(), LABELS.to(torch.complex64), torch.nn.functional.one_hot(LABELS), LABELS[:, None]])
def test_labels_of_a_tensor_likewise(labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "they must be one whole number per sample" in refused(monkeypatch, (plain(labels=labels), plain()))


# ---- samples that do not go with the others -----------------------------------------------------------------------------

ODD: dict[str, tuple[Callable[[Tensor, int], Any], str]] = {
    "type": (lambda inputs, label: (inputs.double(), label), "sample 7 is torch.float64, where sample 0 is torch.float32."),
    "shape": (lambda inputs, label: (inputs[:2], label), "sample 7 has shape (2,), where sample 0 has (4,)."),
    "none": (lambda *_: None, "sample 7 is None; it must be (input tensor, label)."),
    "dict": (lambda inputs, label: {"x": inputs, "y": label}, "sample 7 is a dict with x, y; it must be (input tensor, label)."),
    "array": (lambda inputs, label: (inputs.numpy(), label), "sample 7 is a tuple of ndarray, int; it must be"),
    "list": (lambda inputs, label: (inputs.tolist(), label), "sample 7 is a tuple of list, int; it must be"),
    "alone": (lambda inputs, _: inputs, "sample 7 is a Tensor; it must be (input tensor, label)."),
    "text": (lambda inputs, _: (inputs, "cat"), "the label of training sample 7 is the text 'cat'."),
    "three": (lambda inputs, label: (inputs, label, 1), "sample 7 is a tuple of Tensor, int, int; it must be"),
    "gradient": (lambda inputs, label: (inputs.clone().requires_grad_(), label), "the input of training sample 7 requires a gradient"),
    "sparse": (lambda inputs, label: (inputs.to_sparse(), label), "the input of training sample 7 is sparse (sparse_coo)."),
    "label": (lambda inputs, _: (inputs, 3), "label 3 of training sample 7 is not in 0 ... 2."),
    "ignored": (lambda inputs, _: (inputs, -100), "label -100 of training sample 7 is not in 0 ... 2."),
    "half": (lambda inputs, _: (inputs, 0.5), "the label of training sample 7 is 0.5, a floating-point number."),
    "raises": (lambda *_: 1 / 0, "sample 7 cannot be read: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_sample_is_named_when_it_is_read(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, problem = ODD[odd]
    dataset = load(monkeypatch, (Single(change, only=7), Single()))
    with pytest.raises(DataError) as error:
        everything(dataset, dataset.train)
    assert error.value.field == "odd_data:load"
    assert problem in error.value.problem


@pytest.mark.parametrize("odd", [name for name in ODD if name not in {"type", "shape"}])
def test_what_is_odd_in_all_is_refused_before_training(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, problem = ODD[odd]
    assert problem.replace("sample 7", "sample 0") in refused(monkeypatch, (Single(change), Single()))


def test_a_length_that_cannot_be_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(Single):
        def __len__(self) -> int:
            return NUM_SAMPLES + 5

    sentence = refused(monkeypatch, (Longer(), Single()))
    assert "training sample 44 cannot be read: IndexError" in sentence
    assert "The training set's __len__ is 45" in sentence


def test_tensors_that_training_would_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the tensor of test inputs requires a gradient" in refused(monkeypatch, (plain(), plain(INPUTS.clone().requires_grad_())))
    assert "the tensor of training inputs is sparse" in refused(monkeypatch, (plain(INPUTS.to_sparse()), plain()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tensors_with_nan_or_infinity_are_told_of(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may be made for them, so they are no error; numbers whose sum alone overflows are nothing to tell of."""
    inputs = INPUTS.to(dtype)
    inputs[17, 3], inputs[20, 0] = float("nan"), float("inf")
    large = torch.full_like(inputs, torch.finfo(dtype).max)
    assert load(monkeypatch, (plain(inputs), plain(large))).notices == (
        "Data: 2 of 40 training samples with NaN or infinity; the first is sample 17.",
    )


# ---- what is no pair of map-style sets ----------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    num_classes = NUM_CLASSES

    def __iter__(self) -> Iterator[Any]:
        return zip(INPUTS, LABELS.tolist(), strict=True)

    def __len__(self) -> int:
        return NUM_SAMPLES


class Unread(TorchDataset[Any]):
    def __len__(self) -> int:
        return NUM_SAMPLES


class Endless(TorchDataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return INPUTS[0], 0


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ((Stream(), Single()), "the training set (Stream) is an IterableDataset"),
        ((Single(), DataLoader(plain())), "the test set is a DataLoader. Return its .dataset"),
        ((Unread(), Single()), "the training set (Unread) has no __getitem__"),
        ((Endless(), Single()), "the training set (Endless) has no __len__"),
        (plain(), "it returned a TensorDataset."),
        (None, "it returned a NoneType."),
        (
            (plain(),) * 4,
            "it returned a tuple of TensorDataset, TensorDataset, TensorDataset, TensorDataset. Three sets are (training set, validation set,",
        ),
        ({"train": plain(), "test": plain()}, "it returned a dict."),
        ((INPUTS, LABELS), "training sample 0 is a Tensor; it must be (input tensor, label)"),
        (type("Pairs", (list,), {})(zip(INPUTS, LABELS, strict=True)), "must return (training set, test set); it returned a Pairs."),
        ((Subset(Single(), []), Single()), "returned 0 training and 40 test samples; both must have some."),
        ((plain(), plain(INPUTS[:, :3])), "differ in shape or type: (4,) torch.float32 and (3,) torch.float32."),
        ((plain(), plain(INPUTS.double())), "differ in shape or type: (4,) torch.float32 and (4,) torch.float64."),
        ((plain(INPUTS.byte()), plain(INPUTS.byte())), "uint8 samples are taken for images (channels, height, width), and these are (4,)."),
        ((plain(labels=LABELS.index_fill(0, torch.tensor(8), -1)), plain()), "label -1 of training sample 8 is not in 0 ... 2 (1 of 40"),
        ((plain(), plain(labels=LABELS.index_fill(0, torch.tensor(4), 7))), "label 7 of test sample 4 is not in 0 ... 2 (1 of 40"),
    ],
)
def test_what_cannot_be_used_is_named(returned: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sentence in refused(monkeypatch, returned)


# ---- the number of classes ----------------------------------------------------------------------------------------------


def saying(**attributes: Any) -> Single:
    return type("Saying", (Single,), {"num_classes": None, **attributes})()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "attributes",
    [
        {"num_classes": np.int32(3)},
        {"num_classes": torch.tensor(3)},
        {"num_classes": property(lambda self: 3)},
        {"classes": ["a", "b", "c"]},
        {"classes": {"a": 0, "b": 1, "c": 2}},
    ],
)
def test_kinds_of_numbers_of_classes(attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, (saying(**attributes), Single())).num_classes == 3
    assert load(monkeypatch, random_split(saying(**attributes), [30, 10])).num_classes == 3


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"num_classes": lambda self: 3}, "num_classes of the training set is a method"),
        ({"num_classes": "3"}, "num_classes of the training set is '3'"),
        ({"num_classes": 3.0}, "num_classes of the training set is 3.0"),
        ({"num_classes": 0}, "num_classes of the training set is 0"),
        ({"num_classes": True}, "num_classes of the training set is True"),
        ({"num_classes": property(lambda self: 1 / 0)}, "num_classes of the training set cannot be read: ZeroDivisionError"),
        ({"classes": 3}, "classes of the training set is 3, not a list of names"),
        ({"classes": "abc"}, "classes of the training set is 'abc', not a list of names"),
        ({"classes": lambda self: ["a"]}, "classes of the training set is a method, not a list of names"),
        ({}, "the number of classes is not known"),
    ],
)
def test_other_numbers_of_classes_are_refused(attributes: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem in refused(monkeypatch, (saying(**attributes), Single()))
    assert problem in refused(monkeypatch, (Subset(saying(**attributes), range(9)), Single()))


class Weighted(TorchDataset[Any]):
    """Samples of (input, label, weight)."""

    num_classes = NUM_CLASSES

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        return INPUTS[index], LABELS[index], torch.tensor(1.0 + index)


def test_weighted_samples_say_their_classes_to_a_model_that_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(monkeypatch, (Weighted(), Weighted()), ClassificationConfig(sample_weights=True))
    assert dataset.for_model["num_outputs"] == dataset.for_model["num_classes"] == NUM_CLASSES


@pytest.mark.parametrize("takes", [lambda data: data, lambda data: Subset(data, range(30)), lambda data: ConcatDataset([data, data])])
def test_tensors_with_weights_tell_their_classes_as_those_without(takes: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight, which comes last, was taken for a target of one number."""
    weighted = takes(TensorDataset(INPUTS, LABELS, torch.rand(NUM_SAMPLES)))
    dataset = load(monkeypatch, (weighted, weighted), ClassificationConfig(sample_weights=True))
    assert dataset.for_model["num_outputs"] == dataset.for_model["num_classes"] == NUM_CLASSES


def test_of_three_tensors_of_an_own_task_nobody_knows_which_is_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights, which came last, gave a model one output for two targets, and the loss broadcast them."""
    own = OwnTaskConfig(entry_point="mine:task")
    targets = torch.rand(NUM_SAMPLES, 2)
    three, two = TensorDataset(INPUTS, targets, torch.rand(NUM_SAMPLES)), TensorDataset(INPUTS, targets)
    assert "num_outputs" not in load(monkeypatch, (three, three), own).for_model
    assert load(monkeypatch, (two, two), own).for_model["num_outputs"] == 2


def test_soft_labels_with_weights_tell_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    weighted = TensorDataset(INPUTS, torch.rand(NUM_SAMPLES, 5).softmax(1), torch.rand(NUM_SAMPLES))
    dataset = load(monkeypatch, (weighted, weighted), ClassificationConfig(sample_weights=True, soft_labels=True))
    assert dataset.for_model["num_outputs"] == 5


TOKENS = torch.arange(NUM_SAMPLES * 6).reshape(NUM_SAMPLES, 6) % 9
NEXT = (TOKENS + 1) % 9


class Sequences(TorchDataset[Any]):
    """(tokens, targets), read one by one."""

    vocabulary_size = 9

    def __init__(self, tokens: Tensor, targets: Tensor) -> None:
        self.tensors = tokens, targets

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        return self.tensors[0][index], self.tensors[1][index]


def changed(tensor: Tensor, place: Any, value: float) -> Tensor:
    other = tensor.clone()
    other[place] = value
    return other


SHARES = torch.eye(NUM_CLASSES)[LABELS]
ODD_NUMBERS: dict[str, tuple[Any, tuple[Tensor, ...], str]] = {
    "a token": (
        LanguageModellingConfig(name="language-modelling"),
        (changed(TOKENS, (7, 2), 9), NEXT),
        "training sample 7 has 9 in 0, which is not in 0 ... 8",
    ),
    "a target": (
        LanguageModellingConfig(name="language-modelling"),
        (TOKENS, changed(NEXT, (7, 2), -1)),
        "sample 7 has -1 in 1, .* or -100 for what",
    ),
    "a hidden token": (
        MaskedLanguageModellingConfig(name="masked-language-modelling"),
        (changed(TOKENS, (7, 2), -100), TOKENS),
        "sample 7 has -100 in 0",
    ),
    "a share": (
        ClassificationConfig(soft_labels=True),
        (INPUTS, changed(SHARES, (7, 2), 1)),
        "sample 7 are 0, 1, 1; they must be shares .* that add up to 1",
    ),
    "one of several labels": (
        MultiLabelConfig(name="multi-label"),
        (INPUTS, changed(SHARES, (7, 2), 2)),
        "training sample 7 are 0, 1, 2; they must be 0, 1, or",
    ),
    "a label": (
        ClassificationConfig(sample_weights=True),
        (INPUTS, changed(LABELS, 7, -100), torch.ones(NUM_SAMPLES)),
        "sample 7 has -100 in 1, which is not in 0 ... 2",
    ),
    "a weight": (
        ClassificationConfig(sample_weights=True),
        (INPUTS, LABELS, changed(torch.ones(NUM_SAMPLES), 7, -2)),
        "sample 7 weighs -2; weights must be finite, and at least 0",
    ),
    "a weight beside shares": (
        ClassificationConfig(sample_weights=True, soft_labels=True),
        (INPUTS, SHARES, changed(torch.ones(NUM_SAMPLES), 7, torch.nan)),
        "sample 7 weighs nan",
    ),
}


@pytest.mark.parametrize("name", ODD_NUMBERS)
def test_whole_numbers_out_of_range_are_refused_by_the_samples_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, tensors, words = ODD_NUMBERS[name]
    part = TensorDataset(*tensors)
    part.vocabulary_size, part.num_outputs = 9, NUM_CLASSES  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=words):
        load(monkeypatch, (part, part), task)


def test_a_target_that_does_not_count_may_stand_there(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Sequences(TOKENS, changed(NEXT, (7, 2), -100))
    load(monkeypatch, (part, part), LanguageModellingConfig(name="language-modelling"))


def test_what_is_read_one_by_one_is_refused_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Sequences(changed(TOKENS, (7, 2), 9), NEXT)
    dataset = load(monkeypatch, (part, part), LanguageModellingConfig(name="language-modelling"))
    with pytest.raises(DataError, match=r"sample 7 has 9 in 0, which is not in 0 \.\.\. 8"):
        everything(dataset, dataset.test)
