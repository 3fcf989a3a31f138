"""The recommended choice as a recipe that trains it, and the command that does."""

import json
import shlex
from contextlib import suppress
from pathlib import Path

import yaml

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
        words = ["largebatch", "train", *place, *_options(run)]
        return ReadyRecipe(text=text, command=shlex.join(words))
    return None


def _changes(begun: TrainSpec, own: TrainSpec) -> list[str]:
    """What makes one spec of another, as options."""
    before, after = (flat(spec.model_dump(mode="json")) for spec in (begun, own))
    return [word for name, value in after.items() if value != before.get(name) for word in ("--set", f"{name}={json.dumps(value)}")]


def _options(run: RunResult) -> list[str]:
    """What the command needs besides, where the run was begun with it."""
    assert run.folder is not None
    path = run.folder / run_folder.ENVIRONMENT
    data_dir = Path(json.loads(path.read_text()).get("data_dir", USUAL_DATA_DIR) if path.is_file() else USUAL_DATA_DIR)
    workers = run.summary.world_size
    return [
        *(["--data-dir", str(data_dir)] if data_dir.absolute() != Path(USUAL_DATA_DIR).absolute() else []),
        *(["--workers", str(workers)] if workers > 1 else []),
    ]
