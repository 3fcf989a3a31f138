"""A small run with a checkpoint after each step, and its branches."""

from pathlib import Path
from typing import Any

import small_runs
from small_runs import CPU, synthetic, trained

from largebatch.tuning.branch.origin import Origin, Wanted, open_origin
from largebatch.tuning.branch.run_branches import Ask, Branched
from largebatch.tuning.branch.train import BranchResult

PARTS: dict[str, Any] = {
    "dataset": synthetic(84, 20, (1, 6, 6)),
    "model": {"name": "mlp", "arguments": {"width": 8}},
    "batch": {"global_batch_size": 8, "micro_batch_size": 8},
    "stop": {"epochs": 5},
    "gradient": {"noise_every_steps": 2},
    "checkpoint": {"every_steps": 1, "keep": 99, "every_seconds": None},
}
ASK = Ask(2, 0.5)


def origin_of(run_dir: Path) -> Origin:
    """A run that was trained there, with two checkpoints to branch from and two batches: eight branches under `ASK`."""
    trained(small_runs.prepared(**PARTS), run_dir)
    return opened(run_dir)


def opened(run_dir: Path) -> Origin:
    return open_origin(run_dir, Wanted(steps=[3, 9], multiples=[2], num_samples=64), CPU, Path("nowhere"))


def told(branched: Branched) -> list[dict[str, Any]]:
    """Everything that branches came to, in the order in which they are answered with, but for seconds, of which checkpoints hold some too."""
    results: list[BranchResult] = [result for of_point in branched.at_rates.values() for result in of_point.values()]
    return [result.model_dump(exclude={"seconds": True, "branch": {"checkpoint"}}) for result in results]
