"""How a study is begun and carried out: where, on what, for how long, and what a person is told meanwhile."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import storage_errors, write_text
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.run_folders import STUDY

PROFILE, REFERENCE, SIZED, PREDICTION, SHARPNESS = "profile.json", "reference", "sized-sweep.json", "prediction.json", "sharpness.json"
"""What each stage leaves in the study's folder."""
LEAST_BUDGET_S = 10.0
"""Three batch sizes, one run each, take about this long beside everything else."""


class Stage(NamedTuple):
    """What a person is told before each stage."""

    number: int
    of: int
    name: str


@dataclass(frozen=True)
class StudyOptions:
    """Where, on what, and for how long."""

    folder: Path
    data_dir: Path
    device: str
    budget_s: float
    """Wall-clock seconds of the whole study."""
    on_stage: Callable[[Stage], None]
    on_notice: Callable[[str], None]
    on_fraction: Callable[[float, str], None] = lambda fraction, text: None
    """How much of the stage is done, and what is under way."""
    profile_share: float = 0.08
    """Of the budget, for the profile."""
    reference_share: float = 0.35
    """Of the budget, for the reference run, at most."""


def refuse_unstudied(spec: TrainSpec, budget_s: float) -> None:
    """Raises: InputError for a recipe without a target, or a budget that no recipe fits into."""
    if spec.stop.target_score is None:
        hint = "Add --set stop.target_accuracy=0.95, or in another metric --set 'stop.target={metric: loss, value: 1.5}'."
        raise InputError("stop.target", "is not set, and a study compares times to it.", hint)
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
