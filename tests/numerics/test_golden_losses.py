"""Losses of the first steps, held against a file: a guard against change, not against error.

A change that should not alter numbers must leave these as they are. One that should writes them anew, as a
commit of its own with the reason: LARGEBATCH_WRITE_GOLDEN=1 pytest tests/numerics/test_golden_losses.py
"""

import json
import os
import platform
from pathlib import Path

import pytest
import torch

from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run.journal import read_records, steps
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.read import read_spec

PLATFORM = f"{platform.system().lower()}-{platform.machine()}-cpu"
GOLDEN = Path(__file__).parent / "golden" / f"{PLATFORM}.json"
NUM_STEPS = 20


def losses_of(recipe: str, folder: Path) -> list[float]:
    spec = read_spec(recipe, [f"stop.steps={NUM_STEPS}", "tracking.enabled=false", "batch.micro_batch_size=auto"])
    run_dir = folder / recipe
    (run_dir / "checkpoints").mkdir(parents=True)
    run_job(prepare(spec, torch.device("cpu"), Path("data")), run_dir, Listener())
    return [record.loss for record in steps(read_records(run_dir))]


@pytest.mark.parametrize("recipe", ["digits-small-batch", "digits-large-batch", "digits-lamb"])
def test_the_first_losses_are_as_they_were(recipe: str, tmp_path: Path) -> None:
    losses = losses_of(recipe, tmp_path)
    assert len(losses) == NUM_STEPS
    known = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if os.environ.get("LARGEBATCH_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**known, recipe: losses}, indent=1) + "\n")
        return
    if recipe not in known:
        pytest.skip(f"no golden losses for {PLATFORM}")
    # Processors of one platform differ in the order of their float32 sums (1e-7 each, and up to a few hundred times
    # that after 20 steps of training); a changed schedule, seed or rule moves losses by far more than 1e-3.
    assert losses == pytest.approx(known[recipe], rel=1e-3)
