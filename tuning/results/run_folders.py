"""From a folder that a person names to the runs in it, and a word on those that are not there.

A study's folder stands for its sweep: the runs beside that are its reference and its solutions, which answer other questions.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.tracking.folder_mirror import REPORT, is_kept_beside_runs
from largebatch.tuning.files import STUDY, SWEEP_OF_STUDY
from largebatch.tuning.results.collect import unreadable_in_words
from largebatch.tuning.sweep.ledger import SWEEP, Ledger, Trial, begun_sweep
from largebatch.tuning.sweep.optimizers import optimizer_of
from largebatch.tuning.sweep.space import count_runs
from largebatch.tuning.sweep.spec import BATCH


class NoRunsError(InputError):
    """A folder holds no run that has ended."""


class FolderRuns(NamedTuple):
    """The runs of one or several folders."""

    run_dirs: list[Path]
    """Of ended runs."""
    missing: list[str]
    """What is not there, or not there yet, in sentences."""


def runs_of_folder(folder: Path) -> FolderRuns:
    """The ended runs of a run's folder, a folder of runs, a sweep or a study. Raises: InputError for a folder that holds nothing of ours."""
    is_study = (folder / STUDY).is_file()
    resume = f"largebatch {'study' if is_study else 'sweep'} --resume {folder}"
    sweep_dir = _sweep_of(folder)
    is_sweep = (sweep_dir / SWEEP).is_file()
    if is_study and not is_sweep:
        return FolderRuns([], [f"The study in {folder} has not come to its sweep; go on with `{resume}`."])
    ended = ended_runs(folder)
    if not is_sweep:
        searches = sorted(path.parent for name in (STUDY, SWEEP) for path in folder.glob(f"*/{name}"))
        num_unended = sum(not (path.parent / run_folder.SUMMARY).is_file() for path in sweep_dir.glob(f"*/{run_folder.SPEC}"))
        if not ended and not num_unended:
            if _is_run(folder):
                go_on = f"Go on with it: largebatch train --resume {folder}"
                goes_on = "Wait for the program that records it." if run_folder.was_recorded(folder) else go_on
                raise NoRunsError("FOLDER", f"{folder} is a run that has not ended.", goes_on)
            problem = f"{folder} {'holds no runs' if folder.is_dir() else 'is not a folder'}."
            raise NoRunsError("FOLDER", problem, f"Give run folders, or the folder of a sweep or a study{_such_as(searches)}.")
        unended = [f"Left out: {num_unended} runs in {folder} that have not ended."] if num_unended else []
        return FolderRuns(ended, [*unended, f"Left out: sweeps and studies in {folder}{_such_as(searches)}."] if searches else unended)
    missing = failures_in_words(sweep_dir)
    try:
        sweep = begun_sweep((sweep_dir / SWEEP).read_text())
    except (OSError, ValueError) as error:
        raise InputError("FOLDER", f"{sweep_dir / SWEEP} cannot be read ({unreadable_in_words(error)}).", "Give the folders of its runs.") from error
    ledger = Ledger(sweep_dir)
    num_over = sum(ledger.is_over(trial) for trial in ledger.trials)
    is_reported = num_over == len(ledger.trials) and (sweep_dir / REPORT).is_dir()  # a group that diverged everywhere is not repeated
    if spent := ledger.spent_budget(sweep.budget):
        missing.append(spent)
    elif num_over < count_runs(sweep) and not is_reported:
        missing.append(f"Missing: {count_runs(sweep) - num_over} of the sweep's runs; go on with `{resume}`.")
    return FolderRuns(ended, missing)


def _such_as(folders: Sequence[Path]) -> str:
    """The last of them, which is the newest where their names begin alike and end with when they began."""
    return f", such as {folders[-1]}" if folders else ""


def runs_of_folders(folders: Iterable[Path]) -> FolderRuns:
    """The same of several, in their order, each run once, such as a shell makes of `runs/*`: there, what holds no runs is left out in words.

    What we keep beside runs ourselves is left out without a word. Raises: InputError for one that is not there, or holds nothing of ours alone.
    """
    folders = list(folders)
    run_dirs, missing = list[Path](), list[str]()
    for folder in folders:
        try:
            of_folder = runs_of_folder(folder)
        except NoRunsError as error:
            if len(folders) == 1 or not folder.exists():
                raise
            if not is_kept_beside_runs(folder):
                missing.append(f"Left out: {error.problem}{f' {error.hint}' if _is_run(folder) else ''}")
            continue
        run_dirs += of_folder.run_dirs
        missing += of_folder.missing
    each_once = {run_dir.resolve(): run_dir for run_dir in run_dirs}  # a study and its sweep may both be named
    return FolderRuns([*each_once.values()], missing)


def has_result(run_dir: Path) -> bool:
    """Whether a run came to an end that a resume would not change."""
    path = run_dir / run_folder.SUMMARY
    return path.is_file() and RunSummary.model_validate_json(path.read_text()).outcome.is_result


def ended_runs(folder: Path) -> list[Path]:
    """The folders of ended runs in `folder`, by name; itself, if it is one; a study's are those of its sweep."""
    folder = _sweep_of(folder)
    if (folder / run_folder.SUMMARY).is_file() and _is_run(folder):
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{run_folder.SUMMARY}") if _is_run(path.parent))


def _is_run(folder: Path) -> bool:
    return (folder / run_folder.SPEC).is_file()


def _sweep_of(folder: Path) -> Path:
    return folder / SWEEP_OF_STUDY if (folder / STUDY).is_file() else folder


def failures_in_words(folder: Path) -> list[str]:
    """How many runs of a sweep failed, why the first did, and at which batch sizes all did; empty for no failure.

    A run that was pruned did not fail. Args: folder: a sweep's, or any other, which has no failures to tell of.
    """
    ledger = Ledger(folder)
    failures = ledger.failures()
    if not failures:
        return []
    failed = {trial.number for trial, _ in failures}
    first = failures[0][1].why or "no reason was given"
    all_of = "All" if len(failed) == len(ledger.trials) else f"{len(failed)} of"
    sentences = [f"{all_of} {len(ledger.trials)} runs failed, first: {first.rstrip('.')}."]
    through = [_compared(trial) for trial in ledger.trials if trial.number not in failed]
    lost = [words for words in dict.fromkeys(map(_compared, ledger.trials)) if words and words not in through]
    if lost and len(failed) < len(ledger.trials):
        sentences.append(f"At {', '.join(lost)} every run failed.")
    return sentences


def _compared(trial: Trial) -> str:
    """`batch 64`, where optimizers are compared `batch 64 with lamb`; empty for a trial that names no batch."""
    batch, optimizer = trial.fields.get(BATCH), optimizer_of(trial.fields)
    if batch is None:
        return ""
    return f"batch {batch:,}{f' with {optimizer}' if optimizer else ''}" if isinstance(batch, int) else f"batch {batch}"
