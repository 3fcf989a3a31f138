"""The recommended choice as a recipe that trains it, and the command that does."""

import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from largebatch.jobs.device import USUAL_THREADS
from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.run import run_folder
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.params import flat
from largebatch.tuning.results.card.card import ReadyRecipe
from largebatch.tuning.results.card.own_recipe import own_recipe
from largebatch.tuning.results.run_result import RunResult

RECIPE = "recipe.yaml"
"""Its file in a report's folder."""
USUAL_DATA_DIR = "data"
TRAIN = "largebatch train"


def ready_recipe(run: RunResult, says: str, file: Path | None = None) -> ReadyRecipe | None:
    """The recipe of a run, its optimizer with every option; None for a run of MLflow's, of another program, or whose folder cannot be read.

    Args: says: what it is, in a line; file: where it is, or will be; default the run's own spec, which with what `--set` changes is that recipe too.
    """
    if run.folder is None or run_folder.was_recorded(run.folder):
        return None
    with suppress(OSError, ValueError, LargebatchError):
        spec = own_recipe(run.folder)
        document = {**spec.model_dump(mode="json", exclude_defaults=True), "optimizer": spec.optimizer.model_dump(mode="json"), "description": says}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10_000)
        place = [str(file)] if file else [str(run.folder / run_folder.SPEC), *_changes(run_folder.begun_spec(run.folder), spec)]
        path = run.folder / run_folder.ENVIRONMENT
        environment: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        words = [*place, *_options(environment, run.summary.world_size)]
        return ReadyRecipe(text=text, command=f"{_threads(environment, run)}{TRAIN} {shlex.join(words)}")
    return None


def for_anybody(recipe: ReadyRecipe) -> ReadyRecipe:
    """The same for somebody who is elsewhere: the command trains the recipe that they take along, with data of their own."""
    threads = recipe.command.partition(TRAIN)[0]
    return recipe.model_copy(update={"command": f"{threads}{TRAIN} {RECIPE}"})


def _changes(begun: TrainSpec, own: TrainSpec) -> list[str]:
    """What makes one spec of another, as options."""
    before, after = (flat(spec.model_dump(mode="json")) for spec in (begun, own))
    return [word for name, value in after.items() if value != before.get(name) for word in ("--set", f"{name}={json.dumps(value)}")]


def _options(environment: Mapping[str, Any], workers: int) -> list[str]:
    """What the command needs besides, where the run was begun with it."""
    data_dir = Path(environment.get("data_dir", USUAL_DATA_DIR))
    return [
        *(["--data-dir", str(data_dir)] if data_dir.absolute() != Path(USUAL_DATA_DIR).absolute() else []),
        *(["--workers", str(workers)] if workers > 1 else []),
    ]


def _threads(environment: Mapping[str, Any], run: RunResult) -> str:
    """What the command begins with where it would compute with other threads than the run, whose seconds the card tells; empty for nothing."""
    threads = environment.get("torch_threads", USUAL_THREADS)
    is_here = run.device.startswith("cpu") and run.summary.world_size == 1 and threads <= (os.cpu_count() or 1)
    return f"OMP_NUM_THREADS={threads} " if is_here and threads != USUAL_THREADS else ""
