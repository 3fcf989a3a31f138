"""How a study is begun and carried out: where, on what, for how long, and what a person is told meanwhile."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import InputError, SpecError, nearest
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import PARENT
from largebatch.jobs.whole_files import storage_errors, write_text
from largebatch.tuning.files import STUDY
from largebatch.tuning.sweep.ledger import STUDY_TAG

SIZED, PREDICTION, SHARPNESS = "sized-sweep.json", "prediction.json", "sharpness.json"
"""What stages leave in the study's folder, beside profile and reference run."""
STAGES = ("profile", "reference run and prediction", "sweep", "solutions and their sharpness", "report")
SOLUTION = "solution-batch-"
"""Begins the names of the folders of runs to the end."""
PROFILE_SHARE = 0.08
"""Of a study's budget, for the profile."""
REFERENCE_SHARE = 0.35
"""Of a study's budget, for the recipe's own run, at most."""
LEAST_BUDGET_S = 10.0
"""Three batch sizes, one run each, take about this long beside everything else."""


class Stage(NamedTuple):
    """What a person is told before each stage."""

    number: int
    of: int
    name: str
    left_s: float | None
    """Of the whole study, by what is known then; None where that is too little."""
    after_s: float = 0.0
    """Of what comes after the sweep, at its stage."""


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
    profile_share: float = PROFILE_SHARE
    """Of the budget, for the profile."""
    reference_share: float = REFERENCE_SHARE
    """Of the budget, for the reference run, at most."""
    optimizers: Sequence[str] = ()
    """Those that are compared, by name; empty: the recipe's alone."""
    began_s: float = field(default_factory=time.monotonic)
    """What `time.monotonic` said when the budget began to be spent."""

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return self.budget_s + self.began_s - time.monotonic()


def refuse_unstudied(spec: TrainSpec, budget_s: float) -> None:
    """Raises: InputError for a recipe without a target, or a budget that no recipe fits into."""
    if spec.stop.target_score is None:
        hint = "Add --set stop.target_accuracy=0.95, or in another metric --set 'stop.target={metric: loss, value: 1.5}'."
        raise InputError("stop.target", "is not set, and a study compares times to it.", hint)
    if budget_s < LEAST_BUDGET_S:
        raise InputError("--budget", f"{budget_s:g} s hold no study, whatever the recipe.", "Give at least 1m.")


def compared_optimizers(spec: TrainSpec, names: Sequence[str]) -> list[str]:
    """The optimizers of a study, each once; none where they are the recipe's alone.

    Raises: SpecError for one that is not known; InputError for a person's own that is not the recipe's, whose rates nobody knows.
    """
    for name in names:
        if ":" in name and name != spec.optimizer.label:
            hint = "Compare it in a sweep's file: each.optimizer, with search.by_optimizer."
            raise InputError("--optimizers", f"{name} is not the recipe's, and no range of learning rates is known for it.", hint)
        if name not in OPTIMIZERS and name != spec.optimizer.label:
            raise SpecError("--optimizers", f"{name!r} is no optimizer.", nearest(name, OPTIMIZERS))
    distinct = list(dict.fromkeys(names))
    return [] if distinct == [spec.optimizer.label] else distinct


def refuse_other_optimizers(folder: Path, names: Sequence[str]) -> None:
    """Raises: InputError for others than those that a study was begun with."""
    begun = json.loads((folder / STUDY).read_text())
    compared = begun.get("optimizers") or [TrainSpec.model_validate(begun["spec"]).optimizer.label]
    if sorted(set(names)) != sorted(compared):
        problem = f"this study compares {', '.join(compared)}, not {', '.join(names)}."
        raise InputError("--optimizers", problem, "Leave --optimizers out, or begin a new study.")


def begin_study(folder: Path, spec: TrainSpec, budget_s: float, optimizers: Sequence[str] = (), *, may_exist: bool = False) -> None:
    """Write down what is to be studied. Args: may_exist: the folder, where nobody else begins a study."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=may_exist)
    begun = {"spec": spec.model_dump(mode="json"), "budget_s": budget_s, "optimizers": [*optimizers], "began_at_s": time.time()}
    write_text(folder / STUDY, json.dumps(begun, indent=2) + "\n")
    describe_for_mlflow(folder)


def describe_for_mlflow(folder: Path) -> None:
    """What MLflow's mirror is told of a study that was begun, where that is not there: an earlier version left none."""
    if (folder / PARENT).is_file():
        return
    begun = json.loads((folder / STUDY).read_text())
    spec = TrainSpec.model_validate(begun["spec"])
    parent = {
        "began_at_s": begun.get("began_at_s"),
        "mlflow_uri": spec.tracking.mlflow_uri,
        "experiment": spec.tracking.experiment,
        "tags": {"largebatch.recipe": spec.name, STUDY_TAG: folder.name},
        "params": {"budget_s": begun["budget_s"], "optimizers": ", ".join(begun.get("optimizers", ())) or spec.optimizer.label},
    }
    write_text(folder / PARENT, json.dumps(parent, indent=2) + "\n")


def change_budget(folder: Path, budget_s: float) -> None:
    """Another budget for a study whose sweep is not sized yet. Raises: InputError."""
    if (folder / SIZED).is_file():
        raise InputError("--budget", "this study's sweep was sized to its budget already.", "Leave --budget out, or begin a new study.")
    begun = json.loads((folder / STUDY).read_text())
    write_text(folder / STUDY, json.dumps({**begun, "budget_s": budget_s}, indent=2) + "\n")
