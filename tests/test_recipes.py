"""Every recipe can be planned on its data's real sizes."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from small_runs import trained

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.data.sources import table as sources
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.spec.read import read_spec, recipe_paths

EMBEDDED = {"digits", "diabetes", "synthetic"}
IMAGENET_TRAIN = 1_281_167  # ILSVRC 2012


@pytest.fixture(scope="module", autouse=True)
def _files_are_read_once() -> Iterator[None]:
    """Eight recipes read CIFAR-10, which takes torchvision, with its check sums, a second; nobody changes what was read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_read_torchvision", cache(sources._read_torchvision))
        yield


@pytest.fixture(scope="module")
def text_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with tokens, of this project's own words."""
    folder = tmp_path_factory.mktemp("text")
    files = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))
    make_tokens(files, folder / "text", byte_tokenizer())
    return folder


@pytest.mark.parametrize("name", recipe_paths())
def test_it_says_what_it_shows(name: str) -> None:
    spec = read_spec(name)
    assert len(spec.description) > 20
    assert spec.name == name


@pytest.mark.parametrize("name", recipe_paths())
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
