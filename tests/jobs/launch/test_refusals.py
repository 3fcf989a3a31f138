"""Bad input for workers: a clear sentence, and nothing begins."""

from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
from launch_runs import Head

from largebatch.jobs.errors import DataError, InputError, PlanError
from largebatch.jobs.launch.options import Workers
from largebatch.jobs.launch.supervise import STARTED_AGAIN

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("here", "undrained")]
TWO = Workers(2, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": Workers(9, 9), "cpus": 1.0}, r"9 workers with 1 CPUs each, and the cluster has 4 CPUs.*at most 4"),
     ({"workers": TWO, "device": "auto", "gpus_per_worker": 1.0}, r"2 workers with 1 GPUs each, and the cluster has 0 GPUs"),
     ({"workers": TWO, "device": "cuda"}, r"cuda for 2 workers, and the cluster has 0 GPUs"),
     ({"workers": TWO, "device": "auto", "gpus_per_worker": 0.5}, r"NCCL joins whole GPUs only"),
     ({"workers": TWO, "device": "auto", "gpus_per_worker": -1.0}, r"less than none"),
     ({"workers": TWO, "gpus_per_worker": 1.0}, r"--device cpu uses none"),
     ({"workers": TWO, "cpus": 0.0}, r"not more than none")],
)  # fmt: skip
def test_more_than_the_cluster_has(head: Head, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        runs.train(tmp_path, head.address, options.pop("workers"), runs.document(), **options)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing answers at 127\.0\.0\.1:9"):
        runs.train(tmp_path, "127.0.0.1:9", TWO, runs.document())
    with pytest.raises(InputError, match="not an address"):
        runs.train(tmp_path, "somewhere", TWO, runs.document())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [({"batch_norm": {"span": "global"}}, PlanError, "at most 125"), ({"dataset": {"name": "cifar100"}}, DataError, "cifar")],
)
def test_what_only_the_workers_can_know(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """Nor is it tried again by a driver that was killed and started again."""
    monkeypatch.setenv(STARTED_AGAIN, "1")
    watcher = runs.Watcher()
    with pytest.raises(kind, match=words):
        runs.train(tmp_path / "new", head.address, TWO, runs.document(**parts), watcher)
    assert not [text for text in watcher.notices if "Failure" in text]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "entry_point", "words"),
    [("model", "failing:refuses", "7 is deeper than this model"),
     ("model", "failing:refuses_in_training", "7 is deeper than this model"),
     ("dataset", "failing:vanished", "no digits anywhere")],
)  # fmt: skip
def test_bad_input_is_not_tried_again_by_a_driver_that_was_killed(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, entry_point: str, words: str
) -> None:
    monkeypatch.setenv(STARTED_AGAIN, "1")  # as the supervisor tells the second driver
    (tmp_path / "workers").mkdir()
    spec_document = runs.document(**{part: {"entry_point": entry_point, "arguments": {"workers": str(tmp_path / "workers")}}})
    watcher = runs.Watcher()
    with pytest.raises(InputError, match=words) as caught:
        runs.train(tmp_path / "new", head.address, TWO, spec_document, watcher)
    assert caught.value.exit_code == 2
    assert not [text for text in watcher.notices if "Failure" in text]
    assert 1 <= len(list((tmp_path / "workers").iterdir())) <= 2, "one group of two, and no other"
