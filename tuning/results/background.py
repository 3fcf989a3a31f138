"""What lies in folders beside runs and adds to an answer: the recipe that a sweep or a study began from, and what branches measured."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.files import BRANCH_ANSWER, BRANCHES, GROWN_RECIPE, PROFILE, REFERENCE, STUDY, SWEEP_OF_STUDY
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import BranchedRun
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.run_folders import has_result
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.sweep.ledger import BASE


@dataclass(frozen=True)
class BegunFrom:
    """What runs are held against: the batch and the optimizer of a recipe, its own run, the profile of its steps."""

    spec: TrainSpec
    run: RunResult | None = None
    """The recipe as it was, trained once; None of a sweep, which trains it nowhere."""
    profile: Profile | None = None
    """Of its steps; None of a sweep."""


def begun_from(folder: Path) -> BegunFrom | None:
    """What a study or a sweep began from, by its folder; None of any other, and of one that cannot be read, for it only adds to an answer."""
    if (folder / STUDY).is_file():
        folder /= SWEEP_OF_STUDY
    with suppress(OSError, ValueError, LargebatchError):
        spec = TrainSpec.model_validate_json((folder / BASE).read_text())
        study = folder.parent
        if folder.name != SWEEP_OF_STUDY or not (study / STUDY).is_file():
            return BegunFrom(spec)
        reference = study / REFERENCE
        run = collect([reference])[0] if has_result(reference) else None
        profile = Profile.model_validate_json((study / PROFILE).read_text()) if (study / PROFILE).is_file() else None
        return BegunFrom(spec, run, profile)
    return None


def branched_runs(runs: Iterable[RunResult]) -> list[BranchedRun]:
    """The critical batches that `largebatch branch` measured on some of these runs, and the schedule they allow; none that cannot be read."""
    found = []
    for run in runs:
        folder = run.folder / BRANCHES if run.folder else None
        if folder is None or not (folder / BRANCH_ANSWER).is_file():
            continue
        try:
            branched = BranchedRun.model_validate_json((folder / BRANCH_ANSWER).read_text())
        except (OSError, ValueError):
            continue
        found.append(branched.model_copy(update={"recipe": str(folder / GROWN_RECIPE)}))
    return found
