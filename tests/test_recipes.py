"""Every recipe can be planned on its data's real sizes."""

import json
from collections import Counter
from collections.abc import Iterator
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import trained
from torchvision import datasets

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.spec.read import read_spec, recipe_paths

EMBEDDED = {"digits", "diabetes", "synthetic"}
IMAGENET_TRAIN = 1_281_167  # ILSVRC 2012


@pytest.fixture(scope="module", autouse=True)
def _files_are_read_once() -> Iterator[None]:
    """Eight recipes read CIFAR-10, which takes torchvision, with its check sums, a second; nobody changes what was read."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CIFAR10", "MNIST", "FashionMNIST"):
            patch.setattr(datasets, name, cache(getattr(datasets, name)))
        yield


@pytest.fixture(scope="module")
def text_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with tokens, of this project's own words."""
    folder = tmp_path_factory.mktemp("text")
    files = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))
    make_tokens(files, folder / "text", byte_tokenizer())
    return folder


def made_up_tokens(folder: Path, windows: int, length: int) -> None:
    """So many windows to train on and 40 to test with, all zeros: a file with nothing in it, which takes no room on the disk."""
    folder.mkdir(parents=True)
    num_tokens = (windows + 40) * length + 1
    with (folder / "tokens.bin").open("wb") as file:
        file.truncate(2 * num_tokens)
    np.zeros(1, dtype="<u8").tofile(folder / "documents.bin")
    facts = {"tokenizer": "none", "vocabulary_size": 300, "dtype": "uint16", "num_documents": 1, "end_of_document": 0, "mask_token": 103}
    (folder / "tokens.json").write_text(json.dumps({**facts, "num_tokens": num_tokens, "test_start": windows * length + 1}))


FULL: dict[str, tuple[int, dict[tuple[int, int | None], int]]] = {
    "bert-lamb-32k": (2**23, {(8192, 128): 14063, (32768, None): 1562}),
    "bert-lamb-64k-32k": (2**23, {(16384, 128): 7037, (32768, None): 1562}),
    "gpt-124m": (9_765_625, {(512, None): 19073}),
}
"""Recipes on a corpus: the windows that their comments speak of, and the steps of each kind."""


@pytest.mark.parametrize("name", FULL)
def test_on_the_corpus_that_it_speaks_of_it_has_the_published_steps(name: str) -> None:
    (windows, steps), spec = FULL[name], read_spec(name)
    length = int(str(spec.dataset.arguments["sequence_length"]))
    plan = make_plan(spec, Facts(windows, has_batch_norm=False, micro_batch_size=64, tokens_per_sample=length))
    assert Counter((batch.size, plan.sequence_length_of(batch)) for batch in plan.batches()) == steps


@pytest.mark.slow
def test_a_corpus_of_gigabytes_is_planned_window_by_window(tmp_path: Path) -> None:
    """All of its tokens are read. Small ones: below, and in tests/jobs/data."""
    pytest.importorskip("transformers")
    windows, steps = FULL["gpt-124m"]
    spec = read_spec("gpt-124m", [f"model.arguments.{size}" for size in ("n_embd=8", "n_layer=1", "n_head=1")])
    made_up_tokens(tmp_path / str(spec.dataset.arguments["path"]), windows, int(str(spec.dataset.arguments["sequence_length"])))
    plan = prepare(spec, torch.device("cpu"), tmp_path).plan
    assert (plan.num_train_samples, plan.total_steps) == (windows, sum(steps.values()))


def test_the_rate_of_bert_is_one_line_in_steps() -> None:
    """From nothing to 0.005 in 3,125 steps, and down to nothing after 15,625, through the step at which the batch is four times as large."""
    plan = make_plan(read_spec("bert-lamb-32k"), Facts(2**23, has_batch_norm=False, micro_batch_size=64, tokens_per_sample=512))
    position = Position(0, 0)
    for number in range(15_625):
        step = plan.step_at(position)
        middle = number + 0.5
        assert step.learning_rate == pytest.approx(0.005 * min(middle / 3125, (15_625 - middle) / 12_500), rel=1e-9)
        position = step.end


@pytest.mark.parametrize("name", recipe_paths())
def test_it_says_what_it_shows(name: str) -> None:
    spec = read_spec(name)
    assert len(spec.description) > 20
    assert spec.name == name


@pytest.mark.parametrize("name", [name for name in recipe_paths() if name not in FULL])
def test_it_can_be_planned(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spec = read_spec(name)
    if spec.dataset.name == "image-folder":
        plan = make_plan(spec, Facts(IMAGENET_TRAIN, has_batch_norm=True, micro_batch_size=256))
    else:
        fixture = "text_data_dir" if spec.dataset.name == "tokens" else "image_data_dir"
        data_dir = tmp_path if spec.dataset.name in EMBEDDED else request.getfixturevalue(fixture)
        plan = prepare(spec, torch.device("cpu"), data_dir).plan
    assert plan.total_steps > 0
    assert plan.global_batch_size <= plan.num_train_samples
    assert plan.learning_rate(plan.total_progress / 2) > 0


@pytest.mark.parametrize(
    ("name", "changes", "falls_below"),
    [
        ("tiny-gpt", ["stop.steps=30", "stop.target=null", "dataset.arguments.sequence_length=32", "evaluation.every_epochs=0.5"], 4.5),
        ("tiny-bert", ["batch.global_batch_size=64", "stop.epochs=2", "dataset.arguments.sequence_length=32"], 5.0),
        ("diabetes-regression", ["stop.epochs=20"], 5000.0),
    ],
)
def test_it_trains(name: str, changes: list[str], falls_below: float, text_data_dir: Path, tmp_path: Path) -> None:
    """Shortened; the loss at the end is below that of guessing: log 258 nats a byte, and a variance of 5,900."""
    small = ["model.arguments.width=32", *(["model.arguments.depth=1"] if name.startswith("tiny") else [])]
    job = prepare(read_spec(name, [*changes, *small, "tracking.enabled=false"]), torch.device("cpu"), text_data_dir)
    trained(job, tmp_path / "run")
    assert list(evaluations(read_records(tmp_path / "run")))[-1].loss < falls_below


@pytest.mark.parametrize(("name", "changes"), [("clip-tiny", []), ("simclr-cifar10", [])])
def test_pairs_of_a_few_images_train(name: str, changes: list[str], image_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 images of each part, two epochs: what belongs together is nearer than at the start, and the classes are told better than by chance."""
    whole = datasets.CIFAR10

    def few(*given: Any, **named: Any) -> Any:
        part = copy(whole(*given, **named))
        part.data, part.targets = part.data[:400], part.targets[:400]
        return part

    monkeypatch.setattr(datasets, "CIFAR10", few)
    small = ["model.arguments.width=8", "stop.epochs=2", "learning_rate.warmup_epochs=0", "tracking.enabled=false"]
    job = prepare(read_spec(name, [*changes, *small]), torch.device("cpu"), image_data_dir)
    trained(job, tmp_path / "run")
    records = list(evaluations(read_records(tmp_path / "run")))
    assert records[-1].loss < records[0].loss
    assert records[-1].score == records[-1].scores["knn_accuracy"] > 0.15
