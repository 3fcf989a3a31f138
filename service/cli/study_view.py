"""Shows each stage of a study while it works, and settles in which folder it does."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from signal import Signals

from rich.console import Console

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.preparing.examine import examine
from largebatch.jobs.run.run_folder import exclusive
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_process import MirrorProcess
from largebatch.service.cli.console import print_plain, teller, time_left
from largebatch.service.cli.sweep_view import run_with_view
from largebatch.tuning.files import PROFILE, STUDY
from largebatch.tuning.study.options import (
    Stage,
    StudyOptions,
    begin_study,
    change_budget,
    compared_optimizers,
    describe_for_mlflow,
    refuse_other_optimizers,
    refuse_unstudied,
)
from largebatch.tuning.study.study import study as study_in_stages
from largebatch.tuning.sweep.ledger import SWEEP, begin_sweep
from largebatch.tuning.sweep.optimizers import optimizer_fields
from largebatch.tuning.sweep.space import refuse_impossible, with_fields
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import SweepOptions, recipes_training_set
from largebatch.tuning.sweep.trials.warm.warm_processes import WarmProcesses

USUAL_BUDGET_S, USUAL_BUDGET_OF_SEVERAL_S = 1800.0, 3600.0
"""The second where optimizers are compared: a study of two spends no more than twice one's."""
READY_WITHIN_S = 60.0
"""How long the first clock waits for the process that will train the sweep's runs, whose start would disturb it."""


def begin(spec: TrainSpec, budget_s: float | None, names: Sequence[str], data_dir: Path, device: str, output_dir: Path) -> Path:
    """The folder of a new study, which is made here. Args: names: of optimizers. Raises: SpecError, InputError."""
    budget_s = budget_s or (USUAL_BUDGET_OF_SEVERAL_S if len(set(names)) > 1 else USUAL_BUDGET_S)
    refuse_unstudied(spec, budget_s)
    optimizers = compared_optimizers(spec, names)
    recipes_training_set(spec, data_dir)  # before a folder is made: the data may be missing
    for name in optimizers:  # or one of them cannot train this model
        examine(with_fields(spec, optimizer_fields(name)), choose_device(device), data_dir)
    folder = output_dir / f"study-{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    begin_study(folder, spec, budget_s, optimizers)
    if optimizers and (own := spec.optimizer.label) not in optimizers:
        print(
            f"The recipe's own {own} is compared as the recipe has it; --optimizers {own},{','.join(optimizers)} searches its rates, too.",
            file=sys.stderr,
        )
    return folder


def go_on(folder: Path, budget_s: float | None, names: Sequence[str]) -> Path:
    """The folder of a study that was begun.

    Args: budget_s: another budget; names: of optimizers, if they are given again.
    Raises: SpecError, InputError.
    """
    if not (folder / STUDY).is_file():
        raise SpecError("--resume", f"{folder} is not a study's folder: it has no {STUDY}.", "Give the folder that the study printed.")
    if names:
        refuse_other_optimizers(folder, names)
    if budget_s is not None:
        change_budget(folder, budget_s)
    describe_for_mlflow(folder)
    return folder


def discard_unmeasured(folder: Path, error: InputError) -> str:
    """Remove a new study that was refused before anything was measured.

    Returns: what became of it, in a sentence; empty where the refusal says so.
    """
    if not (folder / PROFILE).is_file():
        shutil.rmtree(folder)
        return f"Nothing was measured: {folder} is removed."
    return "" if str(folder) in str(error) else f"What was measured is kept in {folder}."


def study_with_view(folder: Path, data_dir: Path, device: str, warm: WarmProcesses, began_s: float, show: Callable[[Path], None]) -> bool:
    """Show each stage while it works. Returns whether it came to its end; else it was stopped or interrupted.

    Args: warm: processes of this machine, for the sweep's runs; began_s: see `StudyOptions`; show: told the report's page, before MLflow is waited
        for.
    """
    document, console, after_s = json.loads((folder / STUDY).read_text()), Console(stderr=True), 0.0
    spec = TrainSpec.model_validate(document["spec"])

    def run_the_sweep(sweep_dir: Path, sweep: SweepSpec, base: TrainSpec) -> int:
        num_runs = refuse_impossible(sweep, base)
        if not (sweep_dir / SWEEP).is_file():
            begin_sweep(sweep_dir, sweep, base)
        options = SweepOptions(sweep_dir, data_dir, device, warm=warm, is_mirrored=True)
        return run_with_view(sweep, base, num_runs, options, when_over=lambda folder: None, console=console, after_s=after_s).num_left

    notice = partial(print_plain, console)
    with exclusive(folder, "study"), console.status("getting ready") as status, MirrorProcess(spec) as mirror:
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
            nonlocal after_s
            leave_if_asked()
            after_s = stage.after_s
            if stage.number == 2:  # a study that is refused before anything was measured leaves nothing, in MLflow neither
                mirror.follow(folder, notice)
            status.stop() if stage.name == "sweep" else status.start()
            left = "" if stage.left_s is None else f", about {time_left(max(stage.left_s, 0.0))} of all"
            console.print(f"[bold]{stage.number}/{stage.of}[/bold] {stage.name}{left}", highlight=False)
            status.update("")

        tell = teller(console, status, time.monotonic())

        def on_fraction(fraction: float, text: str) -> None:
            leave_if_asked()
            tell(f"{fraction:.0%} {text}")

        options = StudyOptions(
            folder, data_dir, device, float(document["budget_s"]), on_stage,
            on_notice=notice,
            on_fraction=on_fraction, optimizers=document.get("optimizers", ()), began_s=began_s,
        )  # fmt: skip
        try:
            with stop_requests(leave):
                warm.get_ready(READY_WITHIN_S)
                page = study_in_stages(spec, options, run_the_sweep)
            status.stop()
            if page is not None:
                show(page)
            mirror.finish()
            return page is not None
        except KeyboardInterrupt:
            return False
