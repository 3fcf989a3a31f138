"""largebatch sweep: many runs of one recipe, each batch searched with equal care."""

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson, DataDir, Device
from largebatch.service.cli.spread import spread

if TYPE_CHECKING:
    from largebatch.jobs.spec.train_spec import TrainSpec
    from largebatch.tuning.sweep.spec import SweepSpec
    from largebatch.tuning.sweep.sweep import SweepProgress

app = typer.Typer()


@app.command("sweep", epilog="Example: largebatch sweep digits-batches")
@spread
def run(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's file, or the name of one that comes along.", show_default=False)] = None,
    data_dir: DataDir = Path("data"),
    output_dir: Annotated[Path, typer.Option(help="Where the sweep's folder goes.", envvar="LARGEBATCH_OUTPUT_DIR")] = Path("runs"),
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with a sweep that was stopped or killed.", show_default=False)] = None,
    address: Annotated[
        str | None, typer.Option(help="An existing Ray, such as 10.0.0.1:6379; without it the command brings its own.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say how many runs there would be, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run one recipe at many batch sizes, each with its own search for the learning rate, and say which is soonest.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    from largebatch.jobs.errors import FaultError, InputError, SpecError
    from largebatch.jobs.spec.train_spec import TrainSpec
    from largebatch.tuning.results.findings import NothingEndedError
    from largebatch.tuning.sweep.begin import begin_sweep, resume_command
    from largebatch.tuning.sweep.ledger import BASE, SWEEP
    from largebatch.tuning.sweep.space import base_spec, find_sweep, read_sweep, refuse_impossible
    from largebatch.tuning.sweep.spec import SweepSpec
    from largebatch.tuning.sweep.sweep import num_train_samples

    if (sweep is None) == (resume is None):
        raise SpecError("SWEEP", "give either a sweep or --resume DIR.")
    if resume is not None:
        if not (resume / SWEEP).is_file():
            raise SpecError("--resume", f"{resume} is not a sweep's folder: it has no {SWEEP}.", "Give the folder that the sweep printed.")
        folder = resume
        wanted = SweepSpec.model_validate_json((folder / SWEEP).read_text())
        base = TrainSpec.model_validate_json((folder / BASE).read_text())
    else:
        assert sweep is not None
        file = find_sweep(sweep)
        wanted = read_sweep(file)
        base = base_spec(wanted, file.parent)
        folder = output_dir / f"{wanted.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    total = refuse_impossible(wanted, base, num_train_samples(base, data_dir))
    if dry_run:
        _print_plan(wanted, base, total, as_json)
        return
    if resume is None:
        begin_sweep(folder, wanted, base)
    try:
        progress = carry_out(folder, wanted, base, total, data_dir, device, address)
    except InputError:
        if resume is None and not list(folder.glob("*/records.jsonl")):  # the machines cannot do it: as if nothing had been asked
            shutil.rmtree(folder, ignore_errors=True)
        raise
    go_on = resume_command("sweep", folder, data_dir, device, address)
    if progress.num_left:
        console = Console(stderr=True)
        console.print(f"{progress.num_left} runs are left. Go on with: {go_on}", highlight=False, soft_wrap=True)
    try:
        _print_results(folder, as_json)
    except NothingEndedError:  # also where it was stopped before any run had ended
        if not progress.num_left:
            raise progress.no_result(go_on) from None
        if as_json:
            print_answer(json.dumps({"sweep_dir": str(folder), "num_runs": 0, "words": [f"No run has ended so far; {progress.num_left} are left."]}))
    if progress.is_faulted and not progress.num_left:
        raise FaultError("sweep", f"the machine failed {len(progress.failures)} runs, at first {progress.failures[0]}", f"Try them again: {go_on}")
    raise typer.Exit(4 if progress.num_left else 0)


def carry_out(folder: Path, wanted: "SweepSpec", base: "TrainSpec", total: int, data_dir: Path, device: str, address: str | None) -> "SweepProgress":
    """Run what is left, and show it."""
    from largebatch.service.cli.sweep_view import SweepView
    from largebatch.tuning.sweep.ledger import Ledger
    from largebatch.tuning.sweep.space import groups
    from largebatch.tuning.sweep.sweep import SweepOptions, run_sweep

    def write_report(folder: Path) -> None:
        from largebatch.tuning.report.report import write_sweep_report  # it draws: only once there is something to draw

        write_sweep_report(folder)

    console = Console(stderr=True)
    console.print(f"Sweep: {folder}, {total} runs", highlight=False, soft_wrap=True)
    with SweepView(console, groups(wanted), total, Ledger(folder)) as view:
        progress = run_sweep(wanted, base, SweepOptions(folder, data_dir, device, address), view.listener(), write_report)
    for failure in progress.failures:
        console.print(f"Failed: {failure}", highlight=False, markup=False, soft_wrap=True)
    if progress.spent:
        console.print(progress.spent, highlight=False, soft_wrap=True)
    return progress


def _print_plan(wanted: "SweepSpec", base: "TrainSpec", total: int, as_json: bool) -> None:
    from largebatch.service.cli.tables import output
    from largebatch.service.present.sweep_plan import plan_facts

    facts = plan_facts(wanted, total)
    if as_json:
        print_answer(json.dumps({"spec": wanted.model_dump(mode="json"), "base": base.model_dump(mode="json"), **facts}))
        return
    for line in facts["lines"]:
        output().print(f"{line['what']}: {line['how']}", highlight=False, markup=False, soft_wrap=True)


def _print_results(folder: Path, as_json: bool) -> None:
    from largebatch.service.cli.tables import output, print_rows
    from largebatch.tuning.results.findings import find_in
    from largebatch.tuning.results.wording import answer_of

    answer = answer_of(find_in(folder))
    if as_json:
        print_answer(json.dumps({"sweep_dir": str(folder), **answer.numbers()}))
        return
    for line in answer.words:
        output().print(line, highlight=False, markup=False, soft_wrap=True)
    print_rows(answer.rows)
