"""Every recipe can be planned on its data's real sizes."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from largebatch.jobs.data.sources import table as sources
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.spec.read import read_spec, recipe_paths

EMBEDDED = {"digits", "synthetic"}
IMAGENET_TRAIN = 1_281_167  # ILSVRC 2012


@pytest.fixture(scope="module", autouse=True)
def _files_are_read_once() -> Iterator[None]:
    """Eight recipes read CIFAR-10, which takes torchvision, with its check sums, a second; nobody changes what was read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_read_torchvision", cache(sources._read_torchvision))
        yield


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
        data_dir = tmp_path if spec.dataset.name in EMBEDDED else request.getfixturevalue("image_data_dir")
        plan = prepare(spec, torch.device("cpu"), data_dir).plan
    assert plan.total_steps > 0
    assert plan.global_batch_size <= plan.num_train_samples
    assert plan.learning_rate(plan.total_progress / 2) > 0
