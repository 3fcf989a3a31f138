"""Begins or resumes a sweep, runs it and prints its results: `largebatch sweep`."""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import FaultError, InputError, SpecError
from largebatch.jobs.launch.options import DataDir, Device, RayAddress
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.streams import print_answer
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.service.cli.card_view import print_card
from largebatch.service.cli.options import AsJson
from largebatch.service.cli.sweep_view import run_with_view
from largebatch.service.cli.tables import print_rows
from largebatch.service.cli.typer_parameters import spread
from largebatch.service.present.job_plan import plan_facts
from largebatch.tuning.results.answer_for_mlflow import write_answer
from largebatch.tuning.results.card.ready_recipe import RECIPE
from largebatch.tuning.results.findings import NothingEndedError, find_in
from largebatch.tuning.results.wording import answer_of
from largebatch.tuning.sweep.ledger import BASE, SWEEP, begin_sweep, begun_sweep
from largebatch.tuning.sweep.space import base_spec, find_sweep, read_sweep, refuse_impossible
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import SweepOptions, recipes_training_set, refuse_untrainable, resume_command

app = typer.Typer()


@app.command(epilog="Example: largebatch sweep digits-batches")
@spread
def sweep(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's file, or the name of one that comes along.")] = None,
    data_dir: DataDir = Path("data"),
    output_dir: Annotated[Path, typer.Option(help="Where the sweep's folder goes.", envvar="LARGEBATCH_OUTPUT_DIR")] = Path("runs"),
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with a sweep that was stopped or killed.")] = None,
    address: RayAddress = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say how many runs there would be, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run one recipe at many batch sizes, each with its own search for the learning rate, and say which is soonest.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    folder, spec, base = _read(sweep, resume, output_dir)
    num_runs = refuse_impossible(spec, base, recipes_training_set(base, data_dir))
    if resume is None:
        refuse_untrainable(spec, base, data_dir, device)
    if dry_run:
        _print_plan(spec, base, num_runs, as_json)
        return
    if resume is None:
        begin_sweep(folder, spec, base)
    options = SweepOptions(folder, data_dir, device, address)
    try:
        progress = run_with_view(spec, base, num_runs, options, _leave_answer)
    except InputError:
        if resume is None and not list(folder.glob("*/records.jsonl")):  # the machines cannot do it: as if no sweep had been begun
            shutil.rmtree(folder, ignore_errors=True)
        raise
    command = resume_command("sweep", folder, data_dir, device, address)
    if progress.num_left:
        print(f"{progress.num_left} runs are left. Go on with: {command}", file=sys.stderr)
    try:
        _print_results(folder, as_json)
    except NothingEndedError:  # also where it was stopped before any run had ended
        if not progress.num_left:
            raise progress.no_result(command) from None
        if as_json:
            print_answer(json.dumps({"sweep_dir": str(folder), "num_runs": 0, "words": [f"No run has ended so far; {progress.num_left} are left."]}))
    if progress.is_faulted and not progress.num_left:
        problem = f"the machine failed {len(progress.failures)} runs, at first {progress.failures[0]}"
        raise FaultError("sweep", problem, f"Try them again: {command}")
    raise typer.Exit(4 if progress.num_left else 0)


def _read(name: str | None, resume: Path | None, output_dir: Path) -> tuple[Path, SweepSpec, TrainSpec]:
    """The folder and the spec of a new sweep by its file or name, or of one that was begun, and what its runs begin from. Raises: SpecError."""
    if resume is not None and name is None:
        if not (resume / SWEEP).is_file():
            raise SpecError("--resume", f"{resume} is not a sweep's folder: it has no {SWEEP}.", "Give the folder that the sweep printed.")
        spec, base = begun_sweep((resume / SWEEP).read_text()), TrainSpec.model_validate_json((resume / BASE).read_text())
        return resume, spec, base
    if name is None or resume is not None:
        raise SpecError("SWEEP", "give either a sweep or --resume DIR.")
    file = find_sweep(name)
    spec = read_sweep(file)
    return output_dir / f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}", spec, base_spec(spec, file.parent)


def _print_plan(spec: SweepSpec, base: TrainSpec, num_runs: int, as_json: bool) -> None:
    facts = plan_facts(spec, num_runs)
    if as_json:
        print_answer(json.dumps({"spec": spec.model_dump(mode="json"), "base": base.model_dump(mode="json"), **facts}))
        return
    for line in facts["lines"]:
        print(f"{line['what']}: {line['how']}")


def _leave_answer(folder: Path) -> None:
    """Write a sweep's report into its folder, and its answer for MLflow; neither where no run has ended. Raises: StorageError."""
    from largebatch.tuning.report.report import write_report  # it draws: only once there is something to draw

    with contextlib.suppress(NothingEndedError):
        findings = find_in(folder)
        write_report(folder / REPORT, findings)
        write_answer(folder, findings)


def _print_results(folder: Path, as_json: bool) -> None:
    answer = answer_of(find_in(folder), folder / REPORT / RECIPE)
    if as_json:
        print_answer(json.dumps({"sweep_dir": str(folder), **answer.numbers()}))
        return
    print_card(answer.card)
    print("\n".join(answer.words))
    print_rows(answer.rows)
