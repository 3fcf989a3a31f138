"""A batch that follows the rate beside the rate that falls: F1 on MNIST under SGD and AdamW, loss after the same samples, and steps.

python benchmarks/grown.py --data-dir data --output docs/results/grown.md
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from _report import parser, publish

from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.read import read_spec

RECIPE = (
    "batch.global_batch_size=64", "learning_rate.decay=cosine", "stop.epochs=1", "stop.target_accuracy=0.99", "stop.at_target=false",
    "evaluation.every_epochs=1", "gradient.noise_every_steps=0",
)  # fmt: skip
OPTIMIZERS = {
    "sgd": ("optimizer={name: sgd, momentum: 0.9}", "learning_rate.base=0.006"),
    "adamw": ("optimizer={name: adamw}", "learning_rate.base=0.0005"),
}
SIDES = {
    "batch 64, the rate falls": (),
    "the batch follows the rate, to 256": ("batch.schedule.follows_rate.largest_factor=4",),
}


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    loss: float
    accuracy: float
    steps: int


def run(overrides: tuple[str, ...], seed: int, data_dir: Path) -> Run:
    """Train once, in a folder that goes away."""
    job = prepare(read_spec("mnist-f1", [*RECIPE, *overrides, f"seed={seed}"]), torch.device("cpu"), data_dir)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "checkpoints").mkdir()
        summary = run_job(job, Path(folder), Listener(), resumes=False)
        last = list(evaluations(read_records(Path(folder))))[-1]
    return Run(last.loss, last.scores["accuracy"], summary.steps)


def scatter(runs: list[Run]) -> float:
    """The standard deviation of the loss over seeds."""
    return stdev([each.loss for each in runs]) if len(runs) > 1 else 0.0


def in_words(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.4f} +- {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


Runs = dict[str, dict[str, list[Run]]]
"""By optimizer, then by side, a run of each seed."""


def publish_runs(runs: Runs, given: argparse.Namespace) -> None:
    """The table, its title the answer."""
    rows, told, pairs = [], [], []
    for optimizer, (constant, following) in ((name, sides.values()) for name, sides in runs.items()):
        apart = [one.loss - other.loss for one, other in zip(following, constant, strict=True)]
        fewer = 1 - following[0].steps / constant[0].steps
        told.append(f"{fewer:.0%} fewer steps under {optimizer}, test loss {mean(apart):+.4f} where another seed changes {scatter(constant):.4f}")
        pairs.append(f"{optimizer} {in_words(apart)}, higher in {sum(each > 0 for each in apart)} of {len(apart)} pairs")
        for side, each in runs[optimizer].items():
            losses, accuracies = in_words([one.loss for one in each]), in_words([one.accuracy for one in each])
            rows.append({"optimizer": optimizer, "run": side, "steps": f"{each[0].steps:,}", "test loss": losses, "test accuracy": accuracies})
    notes = [
        f"Each run: `largebatch train mnist-f1 {' '.join(f'--set {part}' for part in RECIPE)}`, under sgd with "
        f"`{OPTIMIZERS['sgd'][1]}`, under adamw with `{OPTIMIZERS['adamw'][1]}`; mean +- standard deviation over seeds.",
        f"Test loss of the grown batch above the constant one's, seed by seed: {'; '.join(pairs)}. So there is a price, smaller than a seed's.",
        "Momentum and second moments are numbers per step here, so they last up to four times longer in samples at the end; half-lives would not.",
        "One model and one data set, rates that were not searched for either side.",
    ]
    publish(f"A batch that grows where the rate would fall: F1 on MNIST, {'; '.join(told)}", rows, notes, given)


def main() -> None:
    """Every seed of every side in turn."""
    options = parser(__doc__, 3)
    options.add_argument("--data-dir", type=Path, default=Path("data"))
    given = options.parse_args()
    torch.set_num_threads(1)
    runs: Runs = {optimizer: {side: [] for side in SIDES} for optimizer in OPTIMIZERS}
    for optimizer, rule in OPTIMIZERS.items():
        for seed in range(given.repetitions):
            for side, overrides in SIDES.items():
                runs[optimizer][side].append(run((*rule, *overrides), seed, given.data_dir))
                print(optimizer, side, seed, runs[optimizer][side][-1], flush=True)
    publish_runs(runs, given)


if __name__ == "__main__":
    main()
