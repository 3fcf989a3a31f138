"""Branches by whatever trains them: the same results in whatever order they come, none that the budget does not allow, what fails in its sentence."""

import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_branches import ASK, opened, origin_of, told
from small_runs import one_thread

from largebatch.jobs.errors import CheckpointError, DataError, FaultError, InputError
from largebatch.tuning.branch.origin import BranchPoint, Origin
from largebatch.tuning.branch.run_branches import BranchListener, run_branches
from largebatch.tuning.branch.train import Branch, BranchResult, train_branch
from largebatch.tuning.branch.trainers.choose import SideBySide, trainer_for
from largebatch.tuning.branch.trainers.kept_job import KeptJob
from largebatch.tuning.branch.trainers.trainer import TrainerHere
from largebatch.tuning.files import BRANCH_LEDGER, BRANCHES
from largebatch.tuning.sweep.trials.resources import Shares

ONE_CORE = Shares(1, 1.0, 0.0, "cpu", 1)


class LastFirst:
    """Takes three branches at a time, and trains those last that began first."""

    num_concurrent = 3

    def __init__(self, origin: Origin, seconds: float = 0.001) -> None:
        self.origin, self.seconds, self.most_under_way = origin, seconds, 0

    def results(
        self, branches: Iterator[tuple[BranchPoint, Branch]], should_stop: Callable[[], bool], notify: Callable[[str], None]
    ) -> Generator[BranchResult, None, None]:
        under_way: list[tuple[BranchPoint, Branch]] = []
        while not should_stop():
            while len(under_way) < self.num_concurrent and (taken := next(branches, None)) is not None:
                under_way.append(taken)
            self.most_under_way = max(self.most_under_way, len(under_way))
            if not under_way:
                return
            result = train_branch(self.origin.job, *under_way.pop(), should_stop, notify)
            assert result is not None
            yield result.model_copy(update={"seconds": self.seconds})


def test_the_order_in_which_they_end_changes_nothing(tmp_path: Path) -> None:
    origin = origin_of(tmp_path / "run")
    trainer = LastFirst(origin)
    side_by_side = run_branches(origin, ASK, BranchListener(), trainer)
    alone = run_branches(origin_of(tmp_path / "other"), ASK, BranchListener())
    assert told(side_by_side) == told(alone)
    ledgers = [(tmp_path / name / BRANCHES / BRANCH_LEDGER).read_bytes().splitlines() for name in ("run", "other")]
    assert [len(lines) for lines in ledgers] == [8, 8]
    assert (trainer.most_under_way, side_by_side.num_left) == (3, 0)


def test_none_begins_that_the_budget_does_not_allow_and_those_under_way_are_kept(tmp_path: Path) -> None:
    """Each is said to take a thousand seconds: once one has, no further one would end within a minute."""
    origin, begun = origin_of(tmp_path / "run"), list[tuple[int, int, float | None]]()
    listener = BranchListener(on_begin=lambda done, of, branch, left: begun.append((done, of, left)))
    branched = run_branches(origin, ASK._replace(budget_s=60), listener, LastFirst(origin, seconds=1000.0))
    assert begun == [(0, 8, None), (1, 8, None), (2, 8, None)]
    assert branched.num_left == 8 - 3


def test_a_stop_loses_what_is_under_way_alone_and_they_go_on(tmp_path: Path) -> None:
    origin, ended = origin_of(tmp_path / "run"), list[BranchResult]()
    listener = BranchListener(on_end=ended.append, should_stop=lambda: len(ended) >= 4)
    assert run_branches(origin, ASK, listener, LastFirst(origin)).num_left == 4
    begun: list[Branch] = []
    whole = run_branches(origin, ASK, BranchListener(on_begin=lambda done, of, branch, left: begun.append(branch)), LastFirst(origin))
    assert len(begun) == 4
    assert not {result.branch for result in ended} & {*begun}
    assert told(whole) == told(run_branches(origin_of(tmp_path / "other"), ASK, BranchListener()))


class TestKeptJob:
    """What an actor of Ray's trains by, in this process."""

    @staticmethod
    def kept(run_dir: Path) -> KeptJob:
        with one_thread():  # it sets the number for its process
            return KeptJob(run_dir, Path("nowhere"), ONE_CORE)

    @staticmethod
    def asked(origin: Origin) -> tuple[BranchPoint, Branch]:
        """The first of its branches."""
        begun: list[Branch] = []
        run_branches(origin, ASK, BranchListener(on_begin=lambda done, of, branch, left: begun.append(branch), should_stop=lambda: bool(begun)))
        return origin.points[0], begun[0]

    def test_it_tells_what_this_process_would_come_to(self, tmp_path: Path) -> None:
        origin = origin_of(tmp_path / "run")
        asked = self.asked(origin)
        kept = self.kept(tmp_path / "run")
        with one_thread():
            here = train_branch(origin.job, *asked, lambda: False, print)
            answers = [kept.train(*asked) for _ in range(2)]
        assert here is not None
        for answer in answers:
            assert isinstance(answer.result, BranchResult)
            assert answer.result.model_copy(update={"seconds": here.seconds}) == here

    @pytest.mark.parametrize(
        ("spoil", "kind", "words"),
        [
            (lambda run_dir: run_dir.rename(run_dir.with_name("elsewhere")), InputError,
             rf"RUN: .*run is not there on {socket.gethostname()}, where a branch was to be trained\. Let it lie in a folder"),
            (lambda run_dir: (run_dir / "data.json").write_text((run_dir / "data.json").read_text().replace('"length":', '"length":1')), DataError,
             "dataset: is not the run's"),
            (lambda run_dir: [path.write_bytes(b"") for path in (run_dir / "checkpoints").iterdir()], CheckpointError, "is damaged"),
        ],
        ids=["no folder", "other data", "damaged checkpoint"],
    )  # fmt: skip
    def test_it_tells_what_it_fails_of(self, spoil: Callable[[Path], Any], kind: type[Exception], words: str, tmp_path: Path) -> None:
        asked = self.asked(origin_of(tmp_path / "run"))
        spoil(tmp_path / "run")
        told = self.kept(tmp_path / "run").train(*asked)
        assert isinstance(told.result, kind)
        with pytest.raises(kind, match=words):
            raise told.result

    def test_what_nobody_foresaw_is_told_too(self, tmp_path: Path) -> None:
        _, branch = self.asked(origin_of(tmp_path / "run"))
        no_point: Any = "no point of the run"
        told = self.kept(tmp_path / "run").train(no_point, branch)
        assert isinstance(told.result, FaultError)
        assert "nobody foresaw this" in str(told.result)
        assert "AttributeError: 'str' object has no attribute" in (tmp_path / "run" / BRANCHES / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("options", "num_gpus", "device", "is_wanted"),
    [
        ({}, 0, "auto", False),
        ({}, 1, "auto", False),
        ({}, 8, "auto", True),
        ({}, 8, "cpu", False),
        ({"max_concurrent": 1}, 8, "auto", False),
        ({"max_concurrent": 2}, 0, "auto", True),
        ({"cpus_per_worker": 0.5}, 0, "cpu", True),
        ({"gpus_per_worker": 0.5}, 1, "auto", True),
        ({"address": "10.0.0.1:6379", "max_concurrent": 1}, 0, "cpu", True),
        ({"address": "local"}, 0, "cpu", True),
    ],
    ids=str,
)
def test_when_they_go_side_by_side(
    options: dict[str, Any], num_gpus: int, device: str, is_wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert SideBySide(**options).is_wanted(device) is is_wanted


def test_one_process_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    origin = origin_of(tmp_path / "run")
    with trainer_for(origin, SideBySide(), "cpu") as trainer:
        assert isinstance(trainer, TrainerHere)
        assert told(run_branches(origin, ASK, BranchListener(), trainer)) == told(run_branches(opened(tmp_path / "run"), ASK, BranchListener()))
