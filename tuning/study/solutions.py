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
from largebatch.jobs.job import prepare
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.measure.lines import LinePoint, line
from largebatch.tuning.measure.sharpness import epsilon_sharpness, top_eigenvalue
from largebatch.tuning.measure.solution import Solution, load_solution
from largebatch.tuning.report.contents import Attempts
from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.run_folders import has_result
from largebatch.tuning.study.expected import AFTER_S, LONG, NUM_PASSES, SHARPNESS_SHARE, SHORT, SHORT_S, SOLUTIONS_SHARE, Expected
from largebatch.tuning.study.options import SHARPNESS, SOLUTION, StudyOptions
from largebatch.tuning.study.reference_run import train_kept
from largebatch.tuning.sweep.space import with_fields

EPSILONS = (1e-3, 5e-4)
"""Keskar's, of metric 2.1."""
DIMENSIONS = 100
"""Of the random subspace."""
FEWEST_SAMPLES = 32


class Solutions(BaseModel):
    """What a study keeps of them; a file in its folder."""

    runs: list[RunSummary]
    """By rising batch."""
    sharp: list[dict[str, Any]] = Field(default_factory=list)
    """Sharpness and accuracy of the first and the last of them, or nothing."""
    lines: dict[str, list[LinePoint]] = Field(default_factory=dict)
    """`straight` and `curved`: points between those two."""


def solve(findings: Findings, expected: Expected, options: StudyOptions, device: torch.device, attempts: Attempts) -> Solutions:
    """Train as many solutions as the budget holds, and measure them. Kept only whole: where a part failed, the next `--resume` tries again."""
    path, num_failed_before = options.folder / SHARPNESS, len(attempts.failed)
    if path.is_file():
        return Solutions.model_validate_json(path.read_text())
    most_s = min(SOLUTIONS_SHARE * options.budget_s, options.left_s - AFTER_S)  # where the sweep took longer than expected, less is left
    chosen = expected.chosen_for_the_end([best.global_batch_size for best in findings.best], most_s)
    runs = _run_to_the_end([best for best in findings.best if best.global_batch_size in chosen], expected, options, device, attempts)
    if len(chosen) < 2:
        options.on_notice("No sharpness: the budget does not hold two runs to the end of the recipe's epochs.")
    if len(runs) < 2:
        return Solutions(runs=runs)
    sharpness_s = min(SHARPNESS_SHARE * options.budget_s, options.left_s - AFTER_S)
    if affordable_samples([runs[0], runs[-1]], sharpness_s) < FEWEST_SAMPLES:  # not kept: a larger budget may hold it
        options.on_notice("No sharpness: the budget does not hold its passes over enough samples of this model.")
        return Solutions(runs=runs)
    solutions = attempts.attempt("sharpness", partial(measure, runs, options, device, attempts, sharpness_s)) or Solutions(runs=runs)
    if len(attempts.failed) == num_failed_before:
        write_text(path, solutions.model_dump_json(indent=2) + "\n")
    return solutions


def _run_to_the_end(
    chosen: Sequence[Configuration], expected: Expected, options: StudyOptions, device: torch.device, attempts: Attempts
) -> list[RunSummary]:
    """Those that the budget holds: where one takes longer than expected, as beside other work on the machine, what no longer fits is not begun."""
    runs = []
    for best in chosen:
        batch, is_there = best.global_batch_size, has_result(_solution_dir(best, options))
        if not is_there and expected.to_the_end(batch) > options.left_s - AFTER_S:
            options.on_notice(f"No run to the end at batch {batch:,}: what came before took longer than expected, and the budget no longer holds it.")
            continue
        summary = attempts.attempt(f"the run to the end at batch {batch:,}", partial(train_to_the_end, best, options, device))
        runs += [] if summary is None else [summary]
    return runs


def _solution_dir(best: Configuration, options: StudyOptions) -> Path:
    return options.folder / f"{SOLUTION}{best.global_batch_size}"


def train_to_the_end(best: Configuration, options: StudyOptions, device: torch.device) -> RunSummary:
    """One run to the end of the recipe's epochs, kept in the study's folder; gone on with if it is there already."""
    run_dir, swept_dir = _solution_dir(best, options), Path(best.first.summary.run_dir)
    if not has_result(run_dir):
        spec = with_fields(resumed_spec(swept_dir, []), {"stop.at_target": False})
        job = prepare(spec, device, options.data_dir)
        refuse_other_data(job.dataset, job.fingerprint, swept_dir, spec.dataset.may_change)
        train_kept(job, run_dir, options.on_fraction, f"batch {best.global_batch_size:,}, ")
    return RunSummary.model_validate_json((run_dir / run_folder.SUMMARY).read_text())


def affordable_samples(runs: Sequence[RunSummary], seconds: float) -> int:
    """Over how many samples so many seconds hold the passes of sharpness, at the pace of the slowest run."""
    slowest = min(summary.samples_per_second or 0.0 for summary in runs)
    return int(seconds * slowest / NUM_PASSES)


def measure(runs: Sequence[RunSummary], options: StudyOptions, device: torch.device, attempts: Attempts, seconds: float) -> Solutions:
    """The sharpness of the smallest and the largest batch's solution, and the lines between them; what cannot be measured is left out.

    Args: seconds: that it may take.
    Raises: LargebatchError for a run that left no solution.
    """
    num_samples, num_points = SHORT if options.budget_s < SHORT_S else LONG
    ends = [runs[0], runs[-1]]
    num_samples = min(num_samples, affordable_samples(ends, seconds))
    solutions = [load_solution(Path(summary.run_dir), device, options.data_dir, num_samples) for summary in ends]
    sharp = []
    for number, (solution, summary) in enumerate(zip(solutions, ends, strict=True)):
        kept = summary.model_dump(include={"run_id", "score", "train_score", "evaluated_on", "test_score", "epochs", "global_batch_size"})
        on_part = partial(options.on_fraction, number / 3)
        measured = sharpness_of(solution, f"batch {summary.global_batch_size:,}", DIMENSIONS, attempts, on_part)
        sharp.append({**kept, "seed": solution.job.spec.seed, "num_samples": solution.num_samples, **measured})
    lines = lines_between(solutions, num_points, attempts, lambda name: options.on_fraction(2 / 3, "the lines between the two"))
    return Solutions(runs=[*runs], sharp=sharp, lines=lines)


def lines_between(ends: Sequence[Solution], points: int, attempts: Attempts, on_part: Callable[[str], None]) -> dict[str, list[LinePoint]]:
    """The straight and the curved line, without one that cannot be walked. Args: on_part: told what is under way."""
    lines = {}
    for name, is_curved in (("straight", False), ("curved", True)):
        on_part(f"the {name} line")
        walked = attempts.attempt(f"the {name} line", partial(line, *ends, is_curved=is_curved, points=points))
        if walked is not None:
            lines[name] = walked
    return lines


def sharpness_of(solution: Solution, name: str, dimensions: int, attempts: Attempts, on_part: Callable[[str], None]) -> dict[str, Any]:
    """Keskar's sharpness in the full space and in a random one, and the top eigenvalue, as JSON has them; nothing for what cannot be measured.

    Args: name: of the solution, for a person; dimensions: of the random subspace; on_part: told what is under way.
    """

    def values() -> list[dict[str, Any]]:
        measured = []
        for epsilon in EPSILONS:
            for subspace in (None, dimensions):
                on_part(f"{name}: epsilon {epsilon:g}, {'full space' if subspace is None else f'{subspace} dimensions'}")
                measured.append(epsilon_sharpness(solution, epsilon, subspace)._asdict())
        return measured

    sharpness = attempts.attempt(f"sharpness of {name}", values) or []
    on_part(f"{name}: top eigenvalue")
    return {"sharpness": sharpness, "top_eigenvalue": attempts.attempt(f"top Hessian eigenvalue of {name}", partial(top_eigenvalue, solution))}
