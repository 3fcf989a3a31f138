"""The noise scale in the optimizer's own norm, beside the Euclidean one and the critical batch by branches, along short runs on MNIST; and its cost.

largebatch tokens FILES --output TEXT
python benchmarks/noise_norms.py --data-dir DATA --text-dir TEXT

Runs of a network of 3 x 128 at batch 64 under lion and muon; `branch` from three checkpoints of each. Then, in turn, a step that measures
nothing, the Euclidean noise, or both, of a small transformer and of a ResNet-9.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _report import in_turn, parser, publish, ratios, spread

from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.run_folder import CHECKPOINTS
from largebatch.jobs.spec.read import build_spec
from largebatch.tuning.branch.answer import BranchAnswer, in_words
from largebatch.tuning.branch.branch import branch_run
from largebatch.tuning.branch.origin import Wanted, open_origin
from largebatch.tuning.branch.run_branches import Ask, BranchListener
from largebatch.tuning.results.unit import Unit

CPU = torch.device("cpu")
RATES = {"lion": 3e-4, "muon": 3e-3}
STEPS, PLACES = 1400, (100, 400, 1200)
MULTIPLES, SAMPLES, ORDERS = (2, 4, 8, 16), 6400, 3
"""Of the branches."""


def document(optimizer: str, seed: int) -> dict[str, Any]:
    """The spec of one run."""
    return {
        "name": f"{optimizer}-{seed}",
        "dataset": {"name": "mnist"},
        "model": {"name": "mlp", "arguments": {"width": 128, "depth": 3}},
        "batch": {"global_batch_size": 64, "micro_batch_size": 64},
        "optimizer": {"name": optimizer},
        "learning_rate": {"base": RATES[optimizer], "warmup_epochs": 0.05, "decay": "cosine", "final_fraction": 0.1},
        "stop": {"steps": STEPS},
        "gradient": {"noise_norm": "optimizer", "noise_every_steps": 5},
        "evaluation": {"every_epochs": 1.0},
        "checkpoint": {"every_steps": 100, "every_seconds": None, "keep": 30},
        "tracking": {"enabled": False},
        "seed": seed,
    }


def branched(optimizer: str, seed: int, data_dir: Path, folder: Path) -> BranchAnswer:
    """What the branches of one run say."""
    run_dir = folder / f"{optimizer}-{seed}"
    (run_dir / CHECKPOINTS).mkdir(parents=True)
    run_job(prepare(build_spec(document(optimizer, seed)), CPU, data_dir), run_dir, Listener())
    origin = open_origin(run_dir, Wanted(PLACES, MULTIPLES, SAMPLES), CPU, data_dir)
    return branch_run(origin, Ask(ORDERS, 0.5), None, BranchListener()).answer


def rows_of(optimizer: str, answers: Sequence[BranchAnswer]) -> list[dict[str, str]]:
    """A row for each checkpoint, the seeds side by side."""
    rows = []
    for places in zip(*(answer.places for answer in answers), strict=True):
        ratios_of = [place.dual_noise_scale / place.noise_scale if place.noise_scale and place.dual_noise_scale else None for place in places]
        cells = {
            "Euclidean noise scale": _side_by_side([place.noise_scale for place in places], ",.0f"),
            "dual noise scale": _side_by_side([place.dual_noise_scale for place in places], ",.0f"),
            "dual / Euclidean": _side_by_side(ratios_of, ".2f"),
        }
        critical = " / ".join(in_words(place.critical, Unit()) for place in places)
        rows.append({"optimizer": optimizer, "samples seen": f"{places[0].samples_seen:,}", "critical batch, by branches": critical, **cells})
    return rows


def _side_by_side(values: Sequence[float | None], form: str) -> str:
    return " / ".join("-" if value is None else format(value, form) for value in values)


def cost(repetitions: int, data_dir: Path, **parts: Any) -> dict[str, str]:
    """How long a step takes that measures the Euclidean noise, and one that measures both, over one that measures nothing."""
    job = prepare(build_spec(document("muon", 0) | parts), CPU, data_dir)
    batches = training_batches(job)

    def stepper(measures_noise: bool, measures_dual: bool) -> Callable[[], float]:
        state = new_state(job)

        def timed() -> float:
            step = replace(job.plan.step_at(state.progress.position), measures_noise=measures_noise, measures_dual=measures_dual)
            began = time.perf_counter()
            optimizer_step(state, job.plan, step, batches, print)
            return time.perf_counter() - began

        timed()  # sets kernels up
        return timed

    sides = {"nothing": stepper(False, False), "Euclidean": stepper(True, False), "both": stepper(True, True)}
    seconds = in_turn(sides, repetitions)
    return {name: spread(ratios(seconds[name], seconds["nothing"]), ".2f") for name in ("Euclidean", "both")}


def cost_words(repetitions: int, data_dir: Path, text_dir: Path) -> str:
    """Of a decoder of 0.8 M weights under both optimizers, and of a ResNet-9 under muon."""
    text = {
        "task": {"name": "language-modelling"},
        "dataset": {"name": "tokens", "arguments": {"path": str(text_dir.resolve()), "sequence_length": 128}},
        "model": {"name": "transformer", "arguments": {"width": 128, "depth": 4, "num_heads": 4}},
        "batch": {"global_batch_size": 16, "micro_batch_size": 16},
    }
    pictures = {"dataset": {"name": "synthetic", "arguments": {"num_train": 256, "num_test": 32, "shape": [3, 32, 32]}}, "model": {"name": "resnet9"}}
    cases = {
        "transformer (4 x 128, batch 16 x 128), lion": text | {"optimizer": {"name": "lion"}},
        "the same, muon": text,
        "ResNet-9 (batch 64), muon": pictures,
    }
    # A step of the last takes seconds on a CPU.
    found = {name: cost(repetitions if parts is not pictures else min(repetitions, 3), data_dir, **parts) for name, parts in cases.items()}
    return "; ".join(f"{name}: {of['both']} times, {of['Euclidean']} for the Euclidean noise alone" for name, of in found.items())


def main() -> None:
    """Train, branch, time, and publish."""
    made = parser(__doc__, repetitions=5)
    made.add_argument("--data-dir", type=Path, required=True, help="where MNIST lies")
    made.add_argument("--text-dir", type=Path, required=True, help="a folder that `largebatch tokens` made, for the transformer's cost")
    made.add_argument("--seeds", type=int, default=2)
    given: argparse.Namespace = made.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for optimizer in RATES:
            rows += rows_of(optimizer, [branched(optimizer, seed, given.data_dir, Path(folder)) for seed in range(given.seeds)])
    notes = [
        f"Cells: {given.seeds} seeds side by side. Noise: along the branches of the run's own batch.",
        f"Branches: {SAMPLES:,} samples, {ORDERS} orders, batches to 1,024, rate by the square root; in brackets their 95 % interval.",
        f"A step that measures both, over one that measures nothing: {cost_words(given.repetitions, given.data_dir, given.text_dir)}.",
    ]
    publish("Noise scale: the optimizer's own norm beside the Euclidean", rows, notes, given)


if __name__ == "__main__":
    main()
