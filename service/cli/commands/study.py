"""Begins or resumes a study and runs its stages: `largebatch study`."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Annotated

import typer
from rich.console import Console

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.options import RECIPE, DataDir, Device, Overrides
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.prepared import examine
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.card_view import print_card
from largebatch.service.cli.commands.sweep import run_with_view
from largebatch.service.cli.console import PLAIN_EVERY_S
from largebatch.service.cli.options import AsJson, seconds_of
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.results.card.card import Card
from largebatch.tuning.results.run_folders import STUDY
from largebatch.tuning.study.options import (
    Stage,
    StudyOptions,
    begin_study,
    change_budget,
    compared_optimizers,
    refuse_other_optimizers,
    refuse_unstudied,
)
from largebatch.tuning.study.study import study as study_in_stages
from largebatch.tuning.sweep.ledger import SWEEP, begin_sweep
from largebatch.tuning.sweep.optimizers import optimizer_fields
from largebatch.tuning.sweep.space import refuse_impossible, with_fields
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import SweepOptions, recipes_training_set, resume_command

USUAL_BUDGET, USUAL_BUDGET_OF_SEVERAL = "30m", "60m"
"""The second where optimizers are compared: a study of two spends no more than twice one's."""

app = typer.Typer()


@app.command(epilog="Example: largebatch study digits-small-batch --budget 2m")
@spread
def study(
    recipe: Annotated[str | None, RECIPE] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock time for everything, such as 90s, 30m or 2h; 30m if not given, 60m with --optimizers.")
    ] = None,
    optimizers: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,...", help="Compare these optimizers as batch sizes are; the recipe's alone if not given.")
    ] = None,
    overrides: Overrides = (),
    data_dir: DataDir = Path("data"),
    output_dir: Annotated[Path, typer.Option(help="Where the results go.", envvar="LARGEBATCH_OUTPUT_DIR")] = Path("runs"),
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with a study that was stopped.")] = None,
    as_json: AsJson = False,
) -> None:
    """Profile, sweep, sharpness and report in one go: which batch size reaches the target soonest, on your own model.

    A part that only adds to the answer may fail: the report says so, and --resume tries it again.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    names = [name.strip() for name in (optimizers or "").split(",") if name.strip()]
    if optimizers is not None and not names:
        raise SpecError("--optimizers", "names none.", f"Known: {', '.join(OPTIMIZERS)}.")
    if recipe is not None and resume is None:
        folder = _begin(read_spec(recipe, overrides), budget, names, data_dir, device, output_dir)
    elif resume is not None and recipe is None:
        folder = resume
        if not (folder / STUDY).is_file():
            raise SpecError("--resume", f"{folder} is not a study's folder: it has no {STUDY}.", "Give the folder that the study printed.")
        if optimizers is not None:
            refuse_other_optimizers(folder, names)
        if budget is not None:
            change_budget(folder, seconds_of(budget))
    else:
        raise SpecError("RECIPE", "give either a recipe or --resume DIR.")
    print(f"Study: {folder}", file=sys.stderr)
    page = _study_with_view(folder, data_dir, device)
    if page is None:
        print(f"Stopped. Go on with: {resume_command('study', folder, data_dir, device)}", file=sys.stderr)
        raise typer.Exit(4)
    numbers = json.loads((page.parent / "report.json").read_text())
    if as_json:
        print_answer(json.dumps({"study_dir": str(folder), "report": str(page), **numbers}))
        return
    print_card(Card.model_validate(numbers["card"]))
    print("\n".join([*numbers["words"], f"Report: {page.resolve()}"]))


def _begin(spec: TrainSpec, budget: str | None, names: Sequence[str], data_dir: Path, device: str, output_dir: Path) -> Path:
    """The folder of a new study, which is made here. Args: names: of optimizers. Raises: SpecError, InputError."""
    budget_s = seconds_of(budget or (USUAL_BUDGET_OF_SEVERAL if len(set(names)) > 1 else USUAL_BUDGET))
    refuse_unstudied(spec, budget_s)
    optimizers = compared_optimizers(spec, names)
    recipes_training_set(spec, data_dir)  # before a folder is made: the data may be missing
    for name in optimizers:  # or one of them cannot train this model
        examine(with_fields(spec, optimizer_fields(name)), choose_device(device), data_dir)
    folder = output_dir / f"study-{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    begin_study(folder, spec, budget_s, optimizers)
    return folder


def _study_with_view(folder: Path, data_dir: Path, device: str) -> Path | None:
    """Show each stage while it works. Returns the report's page; None if the study was stopped or interrupted."""
    document, console = json.loads((folder / STUDY).read_text()), Console(stderr=True)

    def run_the_sweep(sweep_dir: Path, sweep: SweepSpec, base: TrainSpec) -> int:
        num_runs = refuse_impossible(sweep, base)
        if not (sweep_dir / SWEEP).is_file():
            begin_sweep(sweep_dir, sweep, base, name=folder.name)
        return run_with_view(sweep, base, num_runs, SweepOptions(sweep_dir, data_dir, device)).num_left

    with console.status("") as status:
        asked = threading.Event()

        def leave(number: Signals, is_impatient: bool) -> None:
            """What a stage does at SIGTERM too, but for the sweep, whose runs stop each after its step."""
            asked.set()
            raise KeyboardInterrupt

        def leave_if_asked() -> None:
            """A library that the signal came into may have lost what was raised there."""
            if asked.is_set():
                raise KeyboardInterrupt

        def on_stage(stage: Stage) -> None:
            leave_if_asked()
            status.stop() if stage.name == "sweep" else status.start()
            console.print(f"[bold]{stage.number}/{stage.of}[/bold] {stage.name}", highlight=False)
            status.update("")

        told_at_s = time.monotonic()

        def on_fraction(fraction: float, text: str) -> None:
            nonlocal told_at_s
            leave_if_asked()
            status.update(f"{fraction:.0%} {text}")
            if not console.is_terminal and time.monotonic() - told_at_s > PLAIN_EVERY_S:
                console.print(f"{fraction:.0%} {text}", highlight=False, markup=False, soft_wrap=True)
                told_at_s = time.monotonic()

        options = StudyOptions(
            folder, data_dir, device, float(document["budget_s"]), on_stage,
            on_notice=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
            on_fraction=on_fraction, optimizers=document.get("optimizers", ()),
        )  # fmt: skip
        try:
            with stop_requests(leave):
                return study_in_stages(TrainSpec.model_validate(document["spec"]), options, run_the_sweep)
        except KeyboardInterrupt:
            return None
