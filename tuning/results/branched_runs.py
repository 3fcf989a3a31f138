"""What `largebatch branch` left in the folders of runs: the critical batches that were measured on them, and the schedule they allow."""

from collections.abc import Iterable

from largebatch.tuning.files import BRANCH_ANSWER, BRANCHES, GROWN_RECIPE
from largebatch.tuning.results.answers import BranchedRun
from largebatch.tuning.results.run_result import RunResult


def branched_runs(runs: Iterable[RunResult]) -> list[BranchedRun]:
    """Of those runs that were branched; an answer that cannot be read says nothing."""
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
