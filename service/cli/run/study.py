"""Begins or resumes a study and runs its stages: `largebatch study`."""

import json
import re
import time
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console

from largebatch.jobs.errors import SpecError
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import Machines
from largebatch.service.cli.run.sweep import run_with_view
from largebatch.tuning.results.run_folders import STUDY
from largebatch.tuning.study.options import Stage, StudyOptions, begin_study, change_budget, refuse_unstudied
from largebatch.tuning.study.study import study as study_in_stages
from largebatch.tuning.sweep.ledger import SWEEP, begin_sweep
from largebatch.tuning.sweep.space import refuse_impossible
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import num_train_samples, resume_command

USUAL_BUDGET = "30m"
RECIPE_OR_FOLDER = "give either a recipe or --resume DIR."
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Study(NamedTuple):
    """A study that was begun."""

    folder: Path
    spec: TrainSpec
    budget_s: float


def begin(recipe: str | None, overrides: tuple[str, ...], budget: str | None, data_dir: Path, output_dir: Path) -> Study:
    """A new study, whose folder is made here. Raises: SpecError, InputError."""
    if recipe is None:
        raise SpecError("RECIPE", RECIPE_OR_FOLDER)
    spec, budget_s = read_spec(recipe, overrides), seconds_of(budget or USUAL_BUDGET)
    refuse_unstudied(spec, budget_s)
    num_train_samples(spec, data_dir)  # before a folder is made: the data may be missing
    folder = output_dir / f"study-{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    begin_study(folder, spec, budget_s)
    return Study(folder, spec, budget_s)


def resume(recipe: str | None, budget: str | None, folder: Path) -> Study:
    """A study that was stopped, or refused for its budget. Raises: SpecError, InputError."""
    if recipe is not None:
        raise SpecError("RECIPE", RECIPE_OR_FOLDER)
    if not (folder / STUDY).is_file():
        raise SpecError("--resume", f"{folder} is not a study's folder: it has no {STUDY}.", "Give the folder that the study printed.")
    if budget is not None:
        change_budget(folder, seconds_of(budget))
    document = json.loads((folder / STUDY).read_text())
    return Study(folder, TrainSpec.model_validate(document["spec"]), float(document["budget_s"]))


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `1.5h` or plain seconds. Raises: SpecError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise SpecError("--budget", f"{text!r} is not a time.", "Examples: 90s, 30m, 2h.")
    return float(match[1]) * SECONDS[match[2]]


def study(study: Study, machines: Machines, as_json: bool) -> None:
    """Do what is left of a study, and print what it says; exit code 4 where it was stopped."""
    console = Console(stderr=True)
    console.print(f"Study: {study.folder}", highlight=False, soft_wrap=True)
    page = _study_with_view(study, machines, console)
    if page is None:
        console.print(f"Stopped. Go on with: {resume_command('study', study.folder, *machines)}", highlight=False, soft_wrap=True)
        raise typer.Exit(4)
    numbers = json.loads((page.parent / "report.json").read_text())
    if as_json:
        print_answer(json.dumps({"study_dir": str(study.folder), "report": str(page), **numbers}))
        return
    for line in numbers["words"]:
        print(line)
    print(f"Report: {page.resolve()}")


def _study_with_view(study: Study, machines: Machines, console: Console) -> Path | None:
    """Show each stage while it works. Returns the report's page; None if the study was stopped or interrupted."""

    def run_the_sweep(folder: Path, spec: SweepSpec, base: TrainSpec) -> int:
        num_runs = refuse_impossible(spec, base)
        if not (folder / SWEEP).is_file():
            begin_sweep(folder, spec, base, name=study.folder.name)
        return run_with_view(folder, spec, base, num_runs, *machines).num_left

    with console.status("") as status:

        def on_stage(stage: Stage) -> None:
            status.stop() if stage.name == "sweep" else status.start()
            console.print(f"[bold]{stage.number}/{stage.of}[/bold] {stage.name}", highlight=False)
            status.update("")

        options = StudyOptions(
            study.folder, machines.data_dir, machines.device, study.budget_s, on_stage,
            on_notice=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
            on_fraction=lambda fraction, text: status.update(f"{fraction:.0%} {text}"),
        )  # fmt: skip
        try:
            return study_in_stages(study.spec, options, run_the_sweep)
        except KeyboardInterrupt:
            return None
