"""A person's own samples in another form than the task reads: what would train without a word and score wrongly."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.tasks.registry import ClassificationConfig, LanguageModellingConfig, MaskedLanguageModellingConfig, RegressionConfig, TaskConfig

NEXT = LanguageModellingConfig(name="language-modelling")
MASKED = MaskedLanguageModellingConfig(name="masked-language-modelling")
SEQUENCES = torch.randint(2, 9, (30, 13), generator=torch.Generator().manual_seed(0))
TOKENS, FOLLOWING = SEQUENCES[:, :-1], SEQUENCES[:, 1:]
PICTURES = torch.randint(0, 256, (30, 8, 9, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = torch.arange(30) % 3


class OneByOne:
    """A set that is read one by one."""

    def __init__(self, part: TensorDataset) -> None:
        self.part = part
        self.__dict__.update({name: value for name, value in vars(part).items() if name.startswith("num_") or name == "vocabulary_size"})

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Any:
        return self.part[index]


def load(monkeypatch: pytest.MonkeyPatch, task: TaskConfig | None, *tensors: Tensor, one_by_one: bool = False, **spec: Any) -> Dataset:
    parts: list[Any] = [TensorDataset(*(tensor.clone() for tensor in tensors)) for _ in range(2)]
    for part in parts:
        part.vocabulary_size, part.num_classes = 9, 3
    return loaded(monkeypatch, task, *((OneByOne(part) for part in parts) if one_by_one else parts), **spec)


def loaded(monkeypatch: pytest.MonkeyPatch, task: TaskConfig | None, *parts: Any, **spec: Any) -> Dataset:
    module = types.ModuleType("odd_data")
    module.load = lambda: parts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_data", module)
    return load_dataset(DatasetSpec.model_validate({"entry_point": "odd_data:load", **spec}), Path("nowhere"), task)


# ---- tokens --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_by_one", [False, True])
def test_targets_that_are_the_tokens_are_no_next_tokens(one_by_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers' labels are: a model copied what it saw, and its perplexity was 1.00."""
    with pytest.raises(DataError, match=r"the targets of training sample 0 are its tokens, not the next ones.*sequence\[1:\] as targets"):
        load(monkeypatch, NEXT, TOKENS, TOKENS, one_by_one=one_by_one)
    load(monkeypatch, NEXT, TOKENS, FOLLOWING, one_by_one=one_by_one)


def test_next_tokens_that_happen_to_be_the_tokens_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    same = torch.full((30, 12), 4)
    load(monkeypatch, NEXT, same, same)
    doubled = TOKENS.clone()  # targets that count stand apart, and each is a token that stands twice
    doubled[:, 3:5], doubled[:, 8:10] = 2, 3
    targets = torch.full((30, 12), -100)
    targets[:, 3], targets[:, 8] = 2, 3
    load(monkeypatch, NEXT, doubled, targets)


def test_tokens_that_are_hidden_already_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task hides tokens itself: it told masks, and was always right."""
    hidden, targets = TOKENS.clone(), torch.full((30, 12), -100)
    hidden[7, 4], targets[7, 4] = 1, TOKENS[7, 4]
    with pytest.raises(
        DataError, match=rf"training sample 7 has the token 1 where its target is {int(TOKENS[7, 4])}, and the task hides tokens itself"
    ):
        load(monkeypatch, MASKED, hidden, targets)
    with pytest.raises(DataError, match="the task hides tokens itself"):
        load(monkeypatch, MASKED, TOKENS, FOLLOWING)
    load(monkeypatch, MASKED, TOKENS, TOKENS.masked_fill(TOKENS == 3, -100))


@pytest.mark.parametrize(("number", "words"), [(-100, "has -100 in 2"), (0.5, r"has 0\.5 in 2")])
def test_bytes_of_targets_are_counts(number: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third tensor of masks or labels made bits per byte of them, negative ones too."""
    num_bytes = torch.ones(30, 12, dtype=torch.int64 if number == int(number) else torch.float32)
    load(monkeypatch, NEXT, TOKENS, FOLLOWING, num_bytes)
    num_bytes[5, 2] = number
    with pytest.raises(DataError, match=f"training sample 5 {words}, which is the bytes of text of each target"):
        load(monkeypatch, NEXT, TOKENS, FOLLOWING, num_bytes)


# ---- parts of a sample ---------------------------------------------------------------------------------------------------


class Rows:
    """A set of one thing, each time."""

    num_outputs = num_classes = 3

    def __init__(self, sample: Any) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return self.sample


INPUT = torch.zeros(4)
OTHER_PARTS: dict[str, tuple[TaskConfig, Any, str]] = {
    "a row": (MASKED, TOKENS[0], r"is a Tensor, and masked-language-modelling reads \(tokens, tokens, \[bytes of the tokens\]\)"),
    "a dict": (
        NEXT,
        {"input_ids": TOKENS[0], "labels": FOLLOWING[0]},
        r"is a dict with input_ids, labels, and language-modelling reads \(tokens, next",
    ),
    "one too many": (ClassificationConfig(sample_weights=True), (INPUT, 1, 0.5, 7.0), r"and classification reads \(input, label, weight\)"),
    "no weight": (ClassificationConfig(sample_weights=True), (INPUT, 1), r"and classification reads \(input, label, weight\)"),
    "a weighted target": (RegressionConfig(name="regression"), (INPUT, INPUT, 0.5), r"and regression reads \(input, targets\)"),
    "a weight in a list": (
        ClassificationConfig(sample_weights=True),
        (INPUT, 1, torch.ones(1)),
        r"the weight of training sample 0 has the shape \(1,\)",
    ),
}


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_samples_of_other_parts_than_the_task_reads_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fourth part was passed over, and weights (n, 1) beside losses (n,) are a table of both."""
    task, sample, words = OTHER_PARTS[name]
    with pytest.raises(DataError, match=words) as error:
        loaded(monkeypatch, task, Rows(sample), Rows(sample))
    assert error.value.field == "dataset.entry_point"


# ---- images --------------------------------------------------------------------------------------------------------------


def test_images_whose_channels_come_last_are_told_and_not_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flip mirrored red and blue."""
    (notice,) = load(monkeypatch, None, PICTURES, LABELS).notices
    assert notice.startswith("Data: samples (8, 9, 3) are taken for 8 channels of 9 x 3 pixels. Of channels that come last give images.permute")
    for images in (PICTURES, PICTURES.float()):
        with pytest.raises(SpecError, match=r"these samples are \(8, 9, 3\): their channels come last") as error:
            load(monkeypatch, None, images, LABELS, augment={"horizontal_flip": "random"})
        assert error.value.field == "dataset.augment"
    dataset = load(monkeypatch, None, PICTURES.permute(0, 3, 1, 2), LABELS, augment={"horizontal_flip": "random"})
    assert (dataset.notices, dataset.normalises) == ((), True)


def test_images_beside_weights_are_not_normalised_which_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task, images = ClassificationConfig(sample_weights=True), PICTURES.permute(0, 3, 1, 2)
    dataset = load(monkeypatch, task, images, LABELS, torch.ones(30))
    assert not dataset.normalises
    assert dataset.notices == (
        "Data: uint8 samples reach the model as they are; they are normalised where they are (image, number of a class) alone.",
    )
    with pytest.raises(SpecError, match=r"does not reach the samples of odd_data:load, which are not \(image, number of a class\) alone"):
        load(monkeypatch, task, images, LABELS, torch.ones(30), augment={"horizontal_flip": "random"})


# ---- samples of two parts ------------------------------------------------------------------------------------------------

NUMBERS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
WHOLE = TensorDataset(NUMBERS, LABELS)
WHOLE.num_classes = 3  # type: ignore[attr-defined]
SHARING: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "one set": ((WHOLE, WHOLE), ["30 of the 30 test samples are training"]),
    "two splits": ((Subset(WHOLE, range(20)), Subset(WHOLE, [3, 25, 19])), ["2 of the 3 test samples are training"]),
    "slices": ((TensorDataset(NUMBERS[:22], LABELS[:22]), TensorDataset(NUMBERS[20:], LABELS[20:])), ["2 of the 10 test samples are training"]),
    "three": (
        (TensorDataset(NUMBERS[:20], LABELS[:20]), TensorDataset(NUMBERS[20:], LABELS[20:]), TensorDataset(NUMBERS[29:], LABELS[29:])),
        ["1 of the 1 test samples are validation"],
    ),
    "none": ((Subset(WHOLE, range(20)), Subset(WHOLE, range(20, 30))), []),
    "neighbours": ((TensorDataset(NUMBERS[:20], LABELS[:20]), TensorDataset(NUMBERS[20:], LABELS[20:])), []),
    "the same numbers elsewhere": ((WHOLE, TensorDataset(NUMBERS.clone(), LABELS)), []),
}


@pytest.mark.parametrize("name", SHARING)
def test_samples_that_are_in_two_parts_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, words = SHARING[name]
    assert loaded(monkeypatch, None, *parts).notices == tuple(f"Data: {told} samples, too." for told in words)
