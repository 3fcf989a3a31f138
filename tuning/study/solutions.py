"""Each batch's best settings, trained to the end whatever the target: what they come to, how sharp it is, and what lies between.

A sweep's runs end when they have met the target, so their accuracies say nothing about which batch generalises better.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field

from largebatch.jobs.data.same_data import refuse_other_data
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.tuning.measure.lines import line
from largebatch.tuning.measure.sharpness import epsilon_sharpness, top_eigenvalue
from largebatch.tuning.measure.solution import Solution, load_solution
from largebatch.tuning.report.attempts import Attempts
from largebatch.tuning.report.batch_figures import BATCH
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.report.measured_figures import line_chart, line_conditions
from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.analysis.line_point import LinePoint
from largebatch.tuning.results.run_folders import has_result
from largebatch.tuning.sweep.space import with_fields

EPSILONS = (1e-3, 5e-4)
"""Keskar's, of metric 2.1."""
DIMENSIONS = 100
"""Of the random subspace."""
Told = Callable[[float, str], None]
"""Called with how much of the stage is done, and what is under way."""


class Solutions(BaseModel):
    """What a study keeps of them; a file in its folder."""

    runs: list[RunSummary]
    """By rising batch."""
    sharp: list[dict[str, Any]] = Field(default_factory=list)
    """Sharpness and accuracy of the first and the last of them, or nothing."""
    lines: dict[str, list[LinePoint]] = Field(default_factory=dict)
    """`straight` and `curved`: places between those two."""


def train_to_the_end(best: Configuration, folder: Path, data_dir: Path, device: torch.device, told: Told) -> RunSummary:
    """One run to the end of the recipe's epochs, kept in `folder`; gone on with if it is there already."""
    run_dir = folder / f"solution-batch-{best.global_batch_size}"
    if not has_result(run_dir):
        spec = with_fields(resumed_spec(Path(best.first.summary.run_dir), []), {"stop.at_target": False})
        job = prepare(spec, device, data_dir)
        refuse_other_data(job.dataset, job.fingerprint, Path(best.first.summary.run_dir), spec.dataset.may_change)
        run_folder.create(folder, run_dir.name, may_exist=True)

        def show(record: Any) -> None:
            if record.kind == "evaluation":
                told(
                    min(record.samples_seen / job.plan.total_progress, 1.0), f"batch {best.global_batch_size:,}, accuracy {record.test_accuracy:.4f}"
                )

        with run_folder.exclusive(run_dir, "train"):
            run_job(job, run_dir, Listener(on_record=show), resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))
    return RunSummary.model_validate_json((run_dir / run_folder.SUMMARY).read_text())


def measure(
    runs: Sequence[RunSummary], data_dir: Path, device: torch.device, num_samples: int, num_points: int, told: Told, attempts: Attempts
) -> Solutions:
    """The sharpness of the smallest and the largest batch's solution, and the lines between them; what cannot be measured is left out.

    Args: num_samples: training images that losses are taken over; num_points: on each line.
    Raises: LargebatchError for a run that left no solution.
    """
    ends = [runs[0], runs[-1]]
    solutions = [load_solution(Path(one.run_dir), device, data_dir, num_samples) for one in ends]
    sharp = []
    for place, (solution, summary) in enumerate(zip(solutions, ends, strict=True)):
        name = f"batch {summary.global_batch_size:,}"
        kept = summary.model_dump(include={"run_id", "test_accuracy", "train_accuracy", "epochs", "global_batch_size"})
        measured = sharpness_of(solution, name, DIMENSIONS, attempts, partial(told, place / 3))
        sharp.append({**kept, "seed": solution.job.spec.seed, "num_samples": solution.num_samples, **measured})
    told(2 / 3, "the lines between the two")
    lines = {}
    for name, is_curved in (("straight", False), ("curved", True)):
        points = attempts.attempt(f"the {name} line", partial(line, *solutions, is_curved=is_curved, points=num_points))
        if points is not None:
            lines[name] = points
    return Solutions(runs=[*runs], sharp=sharp, lines=lines)


def sharpness_of(solution: Solution, name: str, dimensions: int, attempts: Attempts, told: Callable[[str], None]) -> dict[str, Any]:
    """Keskar's sharpness in the full space and in a random one, and the top eigenvalue, as JSON has them; nothing for what cannot be measured.

    Args: name: of the solution, for a person; dimensions: of the random subspace; told: what is under way.
    """

    def values() -> list[dict[str, Any]]:
        measured = []
        for epsilon in EPSILONS:
            for subspace in (None, dimensions):
                told(f"{name}: epsilon {epsilon:g}, {'full space' if subspace is None else f'{subspace} dimensions'}")
                measured.append(epsilon_sharpness(solution, epsilon, subspace)._asdict())
        return measured

    sharpness = attempts.attempt(f"sharpness of {name}", values) or []
    told(f"{name}: top eigenvalue")
    return {"sharpness": sharpness, "top_eigenvalue": attempts.attempt(f"top Hessian eigenvalue of {name}", partial(top_eigenvalue, solution))}


def solution_charts(solutions: Solutions, setting: str) -> list[Chart]:
    """Accuracy at the end against the batch, and the lines."""
    charts, runs = [], [run for run in solutions.runs if run.test_accuracy is not None and run.train_accuracy is not None]
    if len(runs) > 1:
        batches = [float(run.global_batch_size) for run in runs]
        charts.append(
            Chart(
                "accuracy-at-the-end",
                f"Train and test accuracy after {runs[0].epochs:g} epochs",
                BATCH,
                "accuracy",
                [
                    Series("train", batches, [run.train_accuracy or 0.0 for run in runs]),
                    Series("test", batches, [run.test_accuracy or 0.0 for run in runs]),
                ],
                caption=f"{setting}; each batch's best settings with its first seed, trained on after the target was met",
                log_x=True,
                x_ticks=batches,
            )
        )
    if solutions.sharp:
        small, large = (f"batch {one['global_batch_size']:,}" for one in solutions.sharp)
        caption = line_conditions(setting, [one["seed"] for one in solutions.sharp], solutions.sharp[0]["num_samples"])
        charts += [line_chart(name, points, small, large, caption) for name, points in solutions.lines.items()]
    return charts
