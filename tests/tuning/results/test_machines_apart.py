"""Runs whose seconds are not of one machine, or of machines of different speed, stand on no axis with others."""

import json
from pathlib import Path

import pytest
from made_records import start, step
from made_runs import made_folder

from largebatch.jobs.device import cpu_model
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import StartRecord
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find

HERE, THERE = {"device": "cpu (here)"}, {"device": "cpu (there)"}


def taken_up(folder: Path, starts: list[StartRecord], last: int) -> Path:
    """A run that several processes trained, one after the other: each goes on for ten steps, and the last to `last`."""
    run_dir = made_folder(folder, 32)
    (run_dir / run_folder.JOURNAL).unlink()
    with Journal(run_dir) as journal:
        for number, begun in enumerate(starts):
            journal.write(begun)
            end = begun.step + 10 if number < len(starts) - 1 else last
            for done in range(begun.step + 1, end + 1):
                journal.write(step(done))
    return run_dir


@pytest.mark.parametrize(
    ("starts", "last", "device"),
    [
        ([start(0, **HERE)], 20, "cpu (test)"),
        ([start(0, **HERE), start(10, **HERE)], 20, "cpu (test)"),
        ([start(0, **HERE), start(10, **THERE)], 20, "cpu (here) with 1 worker, then cpu (there) with 1 worker"),
        ([start(0, **HERE), start(0, **THERE)], 20, "cpu (test)"),  # nothing of what the first did was kept
        ([start(0, **HERE), start(20, **THERE)], 20, "cpu (test)"),  # the second had nothing left to do
        ([start(0, **HERE), start(10, **THERE), start(0, **HERE)], 20, "cpu (test)"),
        ([start(0, **HERE), start(10, **HERE, world_size=2)], 20, "cpu (here) with 1 worker, then cpu (here) with 2 workers"),
    ],
)
def test_a_run_that_went_on_elsewhere_says_so(tmp_path: Path, starts: list[StartRecord], last: int, device: str) -> None:
    (run,) = collect([taken_up(tmp_path, starts, last)])
    assert run.device == device


def test_its_time_is_not_raced(tmp_path: Path) -> None:
    runs = [made_folder(tmp_path / "others", batch) for batch in (64, 128, 256)]
    found = find(collect([*runs, taken_up(tmp_path, [start(0, **HERE), start(10, **THERE)], 20)]), 0.6)
    assert [choice.global_batch_size for choice in found.choices] == [64, 128, 256]
    assert [str(setting) for setting in found.other_settings] == [
        "mlp (depth 2, width 128) on digits, cpu (here) with 1 worker, then cpu (there) with 1 worker"
    ]


def on_processor(run_dir: Path, model: str | None) -> Path:
    environment = json.loads((run_dir / run_folder.ENVIRONMENT).read_text())
    (run_dir / run_folder.ENVIRONMENT).write_text(json.dumps(environment | ({} if model is None else {"cpu_model": model})))
    return run_dir


def test_processors_of_two_kinds_are_told_apart(tmp_path: Path) -> None:
    """Both are `cpu (x86_64, 1 thread)`. Runs of earlier versions do not say theirs."""
    models = {32: "EPYC", 64: "EPYC", 128: None, 256: "Xeon"}
    found = find(collect([on_processor(made_folder(tmp_path, batch), model) for batch, model in models.items()]), 0.6)
    assert [choice.global_batch_size for choice in found.choices] == [32, 64, 128]
    assert [setting.device for setting in found.other_settings] == ["cpu (test), Xeon"]


def test_what_a_processor_is_called_is_read_from_the_system(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\n\nmodel name\t: other\n")
    assert cpu_model(told) == "Intel(R) Xeon(R) CPU @ 2.20GHz"
