"""From folders to runs: a study stands for its sweep, what failed or is missing is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import largebatch
from made_runs import made_folder

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.results.findings import NothingEndedError, find_in
from largebatch.tuning.results.run_folders import ended_runs, failures_in_words, runs_of_folder
from largebatch.tuning.sweep.ledger import Ending, Ledger, Trial
from largebatch.tuning.sweep.spec import SweepSpec

BATCHES = [32, 128, 512]


def begin(folder: Path, endings: dict[int, str]) -> Path:
    """A sweep's folder with one decided trial a batch and seed, and the endings given."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep = SweepSpec.model_validate({"recipe": "digits-small-batch", "each": {"batch.global_batch_size": BATCHES}, "repeats": 2})
    write_text(folder / "sweep.json", sweep.model_dump_json())
    with Ledger(folder) as ledger:
        for number in range(6):
            batch, seed = BATCHES[number // 2], number % 2
            name = f"b{batch}-s{seed}-1"
            fields: dict[str, Any] = {"batch.global_batch_size": batch, "seed": seed}
            ledger.add(Trial(number=number, group=number // 2, phase="search", fields=fields, run_id=name))
            if number in endings:
                ledger.add(Ending(number=number, how="failed", why=endings[number]))
            else:
                made_folder(folder, batch, seed)
    return folder


def test_a_study_stands_for_its_sweep(tmp_path: Path) -> None:
    study = tmp_path / "study"
    begin(study / "sweep", {})
    made_folder(study, 2048)  # beside the sweep: the reference and the solutions
    assert len(ended_runs(study)) == 1
    write_text(study / "study.json", "{}")
    assert [path.parent for path in ended_runs(study)] == [study / "sweep"] * 6
    assert runs_of_folder(study).missing == []
    answer = json.loads(largebatch("advise", study, "--json").stdout)
    assert [row["global_batch_size"] for row in answer["batches"]] == BATCHES
    assert len(find_in(study).runs) == 6


def test_compare_takes_what_advise_and_report_take(tmp_path: Path) -> None:
    """A study's sweep, a folder of runs and a run, in the order given, and a word on what is missing."""
    study, alone = tmp_path / "study", made_folder(tmp_path / "alone", 2048)
    sweep = begin(study / "sweep", {1: "DataError: no such file."})
    made_folder(study, 1024)  # beside the sweep: the reference and the solutions
    write_text(study / "study.json", "{}")
    (sweep / "b512-s1-1" / run_folder.SUMMARY).unlink()
    figure = tmp_path / "figure.html"
    done = largebatch("compare", alone, study, "--json", "--figure", figure)
    assert [row["global_batch_size"] for row in json.loads(done.stdout)] == [2048, 128, 128, 32, 512], "by name within a folder"
    told = ["1 of 6 runs failed, first: DataError: no such file.", f"Missing: 1 of the sweep's runs; go on with `largebatch study --resume {study}`."]
    assert done.stderr.splitlines() == told
    assert figure.is_file()
    said = largebatch("compare", study).stdout
    assert all(line in said for line in told)
    assert "such as a sweep's or a study's" in " ".join(largebatch("compare", "--help").stdout.replace("│", " ").split())


def test_compare_of_a_study_that_has_no_runs_says_so(tmp_path: Path) -> None:
    write_text(tmp_path / "study.json", "{}")
    with pytest.raises(NothingEndedError, match=r"no run that has ended\. The study in .* has not come to its sweep; go on with"):
        largebatch("compare", tmp_path)


def test_an_unfinished_study_goes_on_by_its_own_command(tmp_path: Path) -> None:
    write_text(tmp_path / "study.json", "{}")
    assert runs_of_folder(tmp_path) == (
        [],
        [f"The study in {tmp_path} has not come to its sweep; go on with `largebatch study --resume {tmp_path}`."],
    )
    sweep = begin(tmp_path / "sweep", {})
    (sweep / "b32-s0-1" / run_folder.SUMMARY).unlink()
    (missing,) = runs_of_folder(tmp_path).missing
    assert missing == f"Missing: 1 of the sweep's runs; go on with `largebatch study --resume {tmp_path}`."


def test_runs_that_failed_are_told_with_the_first_reason_and_the_batches_that_are_lost(tmp_path: Path) -> None:
    begin(tmp_path, {1: "DataError: no such file.", 4: "PlanError: too large", 5: "PlanError: too large"})
    assert failures_in_words(tmp_path) == ["3 of 6 runs failed, first: DataError: no such file.", "At batch 512 every run failed."]
    said = largebatch("advise", tmp_path).stdout
    assert "3 of 6 runs failed, first: DataError: no such file." in said
    assert "At batch 512 every run failed." in find_in(tmp_path).missing


def test_a_sweep_whose_runs_all_failed_says_so_and_why(tmp_path: Path) -> None:
    begin(tmp_path / "sweep", dict.fromkeys(range(6), "DataError: labels of 10 classes reach 11."))
    told = "All 6 runs failed, first: DataError: labels of 10 classes reach 11."
    with pytest.raises(NothingEndedError) as nothing:
        largebatch("advise", tmp_path / "sweep")
    assert str(nothing.value) == f"runs: there is no run that has ended. {told}"
    output = tmp_path / "report"
    said = largebatch("report", tmp_path / "sweep", "--output", output).stdout
    assert told in said
    assert told in (output / "report.html").read_text()


def test_pruned_runs_did_not_fail(tmp_path: Path) -> None:
    begin(tmp_path, {})
    with Ledger(tmp_path) as ledger:
        ledger.add(Ending(number=2, how="pruned"))
    assert failures_in_words(tmp_path) == []


def test_a_run_that_has_not_ended_is_told_as_one(tmp_path: Path) -> None:
    run = made_folder(tmp_path, 32)
    (run / run_folder.SUMMARY).unlink()
    with pytest.raises(InputError, match="is a run that has not ended"):
        runs_of_folder(run)
