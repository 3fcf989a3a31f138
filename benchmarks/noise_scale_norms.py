"""The noise scale of the norms' gradients alone beside that of the whole gradient, along the recipe tiny-gpt (Gray et al., arXiv:2411.00999).

largebatch tokens FILES --output DATA/text
python benchmarks/noise_scale_norms.py --data-dir DATA

Every step measures both: the whole between micro-batches of 4, the norms sample by sample. Means over windows of steps are divided.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import correlation, geometric_mean, median

import torch
from _report import in_turn, parser, publish, ratios, spread

from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.spec.read import read_spec

RECIPE = "tiny-gpt"
PIECE = 4
"""Sequences of a micro-batch: 16 pieces of a batch of 64."""
WINDOW = 20


def job_of(data_dir: Path, micro_batch_size: int, seed: int) -> Prepared:
    """The recipe's job, its batch in such micro-batches."""
    return prepare(read_spec(RECIPE, [f"batch.micro_batch_size={micro_batch_size}", f"seed={seed}"]), torch.device("cpu"), data_dir)


def measuring(*, pieces: bool = False, norms: bool = False) -> Callable[[StepPlan], StepPlan]:
    """What makes a step measure this and nothing else."""
    return lambda step: replace(step, measures_noise=pieces, measures_norms=norms)


def stepper(job: Prepared, change: Callable[[StepPlan], StepPlan]) -> Callable[[], StepRecord]:
    """What takes the next step of a run, by the recipe's own schedule, each plan of a step changed."""
    state, batches = new_state(job), training_batches(job)
    return lambda: optimizer_step(state, job.plan, change(job.plan.step_at(state.progress.position)), batches, print)


def trained(job: Prepared, num_steps: int) -> list[StepRecord]:
    """The records of a run's first steps."""
    step = stepper(job, measuring(pieces=True, norms=True))
    return [step() for _ in range(num_steps)]


def scales(records: Sequence[StepRecord]) -> tuple[float, float]:
    """(Of all parameters, of the norms): sums over steps, divided; not a number where the signal's estimates add up to none."""
    traces = [sum(getattr(record, f"{begin}covariance_trace") for record in records) for begin in ("", "norms_")]
    signals = [sum(getattr(record, f"{begin}gradient_norm_squared") for record in records) for begin in ("", "norms_")]
    whole, norms = (trace / signal if signal > 0 else math.nan for trace, signal in zip(traces, signals, strict=True))
    return whole, norms


def scatter(records: Sequence[StepRecord], name: str) -> float:
    """Of one step's estimate of the trace about its mean with the next step's, as a fraction of it; the median over steps."""
    values = [getattr(record, name) for record in records]
    return median(abs(one - other) / (one + other) for one, other in itertools.pairwise(values)) * math.sqrt(2)


def seconds_of(step: Callable[[], StepRecord]) -> Callable[[], float]:
    """What takes a step and gives its seconds."""

    def timed() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return timed


def costs(data_dir: Path, repetitions: int) -> dict[str, str]:
    """How long a step that measures takes, over one that does not, the batch in one micro-batch."""
    changes = {"none": measuring(), "halves": measuring(pieces=True), "norms": measuring(norms=True)}
    sides = {name: seconds_of(stepper(job_of(data_dir, 64, seed=0), change)) for name, change in changes.items()}
    for side in sides.values():
        side()
    seconds = in_turn(sides, repetitions)
    return {name: spread(ratios(seconds[name], seconds["none"])) for name in ("halves", "norms")}


def _rows(runs: Sequence[Sequence[StepRecord]]) -> list[dict[str, str]]:
    windows = [[run[begin : begin + WINDOW] for run in runs] for begin in range(0, len(runs[0]), WINDOW)]
    rows = []
    for window in windows:
        found = [scales(records) for records in window]
        rows.append(
            {
                "steps": f"{window[0][0].step} to {window[0][-1].step}",
                "loss": f"{median(record.loss for records in window for record in records):.2f}",
                "noise scale, all parameters": spread([whole for whole, _ in found], ".1f"),
                "of the norms alone": spread([norms for _, norms in found], ".1f"),
                "all / norms": spread([whole / norms for whole, norms in found], ".2f"),
            }
        )
    return rows


def _agreement(runs: Sequence[Sequence[StepRecord]]) -> tuple[list[float], list[float]]:
    """(Correlation of the logarithms over a run's windows, geometric mean of all / norms), for each run."""
    correlations, factors = [], []
    for run in runs:
        pairs = [scales(run[begin : begin + WINDOW]) for begin in range(0, len(run), WINDOW)]
        pairs = [pair for pair in pairs if all(scale > 0 for scale in pair)]
        correlations.append(correlation([math.log(whole) for whole, _ in pairs], [math.log(norms) for _, norms in pairs]))
        factors.append(geometric_mean(whole / norms for whole, norms in pairs))
    return correlations, factors


def main() -> None:
    """Train for each seed, time the ways to measure, and publish."""
    made = parser(__doc__, repetitions=20)
    made.add_argument("--data-dir", type=Path, required=True, help="where the folder text of tokens lies")
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--seeds", type=int, default=3)
    given: argparse.Namespace = made.parse_args()
    runs = [trained(job_of(given.data_dir, PIECE, seed), given.steps) for seed in range(given.seeds)]
    correlations, factors = _agreement(runs)
    scatters = {name: spread([scatter(run, f"{name}covariance_trace") for run in runs], ".2f") for name in ("", "norms_")}
    cost = costs(given.data_dir, given.repetitions)
    notes = [
        f"Run by run, windows of {WINDOW}: correlation of logarithms {spread(correlations, '.2f')}, all / norms {spread(factors, '.2f')}.",
        f"One step's trace scatters by {scatters['']} of itself between 16 pieces, and by {scatters['norms_']} sample by sample.",
        f"A step of one micro-batch takes {cost['norms']} times one that measures nothing; cut in halves {cost['halves']}.",
        f"{given.seeds} seeds; a cell is their median (lower quartile ... upper quartile).",
    ]
    publish("Noise scale: the norms' gradients alone beside all", _rows(runs), notes, given)


if __name__ == "__main__":
    main()
