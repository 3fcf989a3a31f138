"""What a study is written down as before it begins, and what it refuses."""

import json
import time
from pathlib import Path

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import storage_errors, write_text
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.run_folders import STUDY
from largebatch.tuning.study.options import SIZED

LEAST_BUDGET_S = 10.0
"""Three batch sizes, one run each, take about this long beside everything else."""


def refuse_unstudied(spec: TrainSpec, budget_s: float) -> None:
    """Raises: InputError for a recipe without a target, or a budget that no recipe fits into."""
    if spec.stop.target_accuracy is None:
        raise InputError("stop.target_accuracy", "is not set, and a study compares times to it.", "Add --set stop.target_accuracy=0.95.")
    if budget_s < LEAST_BUDGET_S:
        raise InputError("--budget", f"{budget_s:g} s hold no study, whatever the recipe.", "Give at least 1m.")


def begin_study(folder: Path, spec: TrainSpec, budget_s: float) -> None:
    """Write down what is to be studied."""
    with storage_errors(folder):
        folder.mkdir(parents=True)
    write_text(folder / STUDY, json.dumps({"spec": spec.model_dump(mode="json"), "budget_s": budget_s, "began_at_s": time.time()}, indent=2) + "\n")


def change_budget(folder: Path, budget_s: float) -> None:
    """Another budget for a study whose sweep is not sized yet. Raises: InputError."""
    if (folder / SIZED).is_file():
        raise InputError("--budget", "this study's sweep was sized to its budget already.", "Leave --budget out, or begin a new study.")
    begun = json.loads((folder / STUDY).read_text())
    write_text(folder / STUDY, json.dumps({**begun, "budget_s": budget_s}, indent=2) + "\n")
