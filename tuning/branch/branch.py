"""Branches a run: trains what is left, and leaves answer, figures and the grown recipe in the run's folder, under `branches/`."""

from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.whole_files import write_text
from largebatch.tuning.branch.answer import BranchAnswer, answer_of_branches
from largebatch.tuning.branch.origin import Origin
from largebatch.tuning.branch.run_branches import Ask, BranchListener, run_branches
from largebatch.tuning.branch.schedule import as_yaml
from largebatch.tuning.branch.trainers.trainer import Trainer
from largebatch.tuning.files import BRANCH_ANSWER, BRANCHES, GROWN_RECIPE


class Left(NamedTuple):
    """What branching left in the run's folder."""

    answer: BranchAnswer
    folder: Path
    recipe: Path | None


def branch_run(origin: Origin, ask: Ask, tolerance: float | None, listener: BranchListener, trainer: Trainer | None = None) -> Left:
    """Train the branches that are not there, and say what they come to. See `run_branches`."""
    from largebatch.tuning.branch.figures import branch_charts  # they draw: only once there is something to draw
    from largebatch.tuning.report.picture_pen import write_png

    branched, folder = run_branches(origin, ask, listener, trainer), origin.run_dir / BRANCHES
    answer, recipe = answer_of_branches(origin, ask, branched, tolerance)
    write_text(folder / BRANCH_ANSWER, answer.model_dump_json(indent=2) + "\n")
    for chart in branch_charts(answer):
        write_png(chart, folder / f"{chart.name}.png")
    path = folder / GROWN_RECIPE
    if recipe is None:
        path.unlink(missing_ok=True)  # of an answer that more branches have changed
        return Left(answer, folder, None)
    write_text(path, as_yaml(recipe, answer.words))
    return Left(answer, folder, path)
