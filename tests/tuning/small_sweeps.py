"""A small sweep of digits: its file, its command, its folder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import said
from forked import Forked
from launch_runs import Head
from small_runs import wait_for

from largebatch.tuning.sweep.ledger import Ledger

BATCHES = [32, 128, 512]
SHORT = {"stop.epochs": 8, "stop.target_accuracy": 0.9, "stop.at_target": True, "checkpoint.every_steps": 10, "evaluation.every_epochs": 1}
ASHA: dict[str, Any] = {
    "set": {"stop.epochs": 12, "evaluation.every_epochs": 1, "stop.target_accuracy": 0.999},
    "each": {"batch.global_batch_size": [64, 256]},
    "search": {"method": "grid", "space": {"learning_rate.base": [0.2, 1e-5, 1e-6, 1e-7]}},
    "early_stop": {"method": "asha", "grace": 1.0, "reduction_factor": 2.0},
    "repeats": 0,
}
"""A sweep whose runs at three of four rates hardly learn, and are ended early."""


def assert_ended_within_their_group(folder: Path) -> None:
    ledger = Ledger(folder)
    pruned = {ledger.trials[number].fields["learning_rate.base"] for number, ending in ledger.endings.items() if ending.how == "pruned"}
    assert pruned
    assert 0.2 not in pruned
    assert {ending.how for ending in ledger.endings.values()} == {"pruned"}


def sweep_file(folder: Path, **parts: Any) -> Path:
    document: dict[str, Any] = {
        "name": "tried",
        "recipe": "digits-small-batch",
        "set": SHORT.copy(),
        "each": {"batch.global_batch_size": BATCHES},
        "search": {"method": "quasi_random", "trials": 2, "space": {"learning_rate.base": {"low": 0.02, "high": 0.2, "times_batch": 0.5}}},
        "repeats": 2,
        "resources": {"cpus_per_worker": 1.0, "max_concurrent": 2},
        **parts,
    }
    document["set"].setdefault("tracking.enabled", False)
    path = folder / "tried.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(*arguments: object, head: Head | None = None) -> list[str]:
    address = ["--address", head.address] if head else []
    return [sys.executable, "-m", "largebatch", "sweep", *map(str, arguments), *address, "--device", "cpu"]


class Sweeps:
    """The sweep's command in this process, on a head or on this machine alone."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], head: Head | None = None) -> None:
        self._folder, self._capsys, self._head = folder, capsys, head

    def __call__(self, *arguments: object, code: int = 0, **parts: Any) -> tuple[str, str]:
        """What it prints on both streams. Args: arguments: of a sweep that goes on, or further options; parts: of a new one."""
        new = [] if "--resume" in arguments else [sweep_file(self._folder, **parts), "--output-dir", self._folder / "runs"]
        exit_code, out, err = said(self._capsys, *command(*new, *arguments, head=self._head)[3:])
        assert exit_code == code, err[-3000:]
        return out, err


def folder_of(output_dir: Path) -> Path:
    (folder,) = output_dir.glob("tried-*")
    return folder


@contextmanager
def under_way(tmp_path: Path, head: Head | None, until: str, count: int = 1, **parts: Any) -> Iterator[subprocess.Popen[str] | Forked]:
    """A sweep's command, once so many files are in its folder; forked where it needs no Ray."""
    words = command(sweep_file(tmp_path, **parts), "--output-dir", tmp_path / "runs", head=head)
    sweep: subprocess.Popen[str] | Forked
    if head is None:
        sweep = Forked(*words[1:], new_session=True)
    else:
        sweep = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: len(list((tmp_path / "runs").glob(f"tried-*/*/{until}"))) >= count, 120, sweep)
        yield sweep
    finally:
        sweep.kill()
        sweep.communicate()
