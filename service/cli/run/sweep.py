"""Begins or resumes a sweep, runs it and prints its results: `largebatch sweep`."""

import json
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console

from largebatch.jobs.errors import FaultError, InputError, SpecError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import Machines
from largebatch.service.cli.sweep_view import SweepView
from largebatch.service.cli.tables import output, print_rows
from largebatch.service.present.sweep_plan import plan_facts
from largebatch.tuning.results.findings import NothingEndedError, find_in
from largebatch.tuning.results.wording import answer_of
from largebatch.tuning.sweep.ledger import BASE, SWEEP, Ledger, begin_sweep
from largebatch.tuning.sweep.space import base_spec, find_sweep, groups, read_sweep, refuse_impossible
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import SweepOptions, SweepProgress, num_train_samples, resume_command, run_sweep


class Sweep(NamedTuple):
    """A sweep that can be run."""

    folder: Path
    spec: SweepSpec
    base: TrainSpec
    num_runs: int


def read(name: str | None, resume: Path | None, data_dir: Path, output_dir: Path) -> Sweep:
    """A new sweep by its file or name, or one that was begun. Raises: InputError for one that cannot be run."""
    if resume is not None and name is None:
        if not (resume / SWEEP).is_file():
            raise SpecError("--resume", f"{resume} is not a sweep's folder: it has no {SWEEP}.", "Give the folder that the sweep printed.")
        folder = resume
        spec = SweepSpec.model_validate_json((folder / SWEEP).read_text())
        base = TrainSpec.model_validate_json((folder / BASE).read_text())
    elif name is not None and resume is None:
        file = find_sweep(name)
        spec = read_sweep(file)
        base = base_spec(spec, file.parent)
        folder = output_dir / f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    else:
        raise SpecError("SWEEP", "give either a sweep or --resume DIR.")
    return Sweep(folder, spec, base, refuse_impossible(spec, base, num_train_samples(base, data_dir)))


def print_plan(name: str | None, resume: Path | None, data_dir: Path, output_dir: Path, as_json: bool) -> None:
    """Check everything, and say how many runs there would be."""
    _, spec, base, num_runs = read(name, resume, data_dir, output_dir)
    facts = plan_facts(spec, num_runs)
    if as_json:
        print_answer(json.dumps({"spec": spec.model_dump(mode="json"), "base": base.model_dump(mode="json"), **facts}))
        return
    for line in facts["lines"]:
        output().print(f"{line['what']}: {line['how']}", highlight=False, markup=False, soft_wrap=True)


def sweep(name: str | None, resume: Path | None, output_dir: Path, machines: Machines, as_json: bool) -> None:
    """Run what is left of a sweep, and print what it says; ends with the exit code."""
    sweep = read(name, resume, machines.data_dir, output_dir)
    folder = sweep.folder
    if resume is None:
        begin_sweep(folder, sweep.spec, sweep.base)
    try:
        progress = run_with_view(folder, sweep.spec, sweep.base, sweep.num_runs, *machines)
    except InputError:
        if resume is None and not list(folder.glob("*/records.jsonl")):  # the machines cannot do it: as if no sweep had been begun
            shutil.rmtree(folder, ignore_errors=True)
        raise
    command = resume_command("sweep", folder, *machines)
    if progress.num_left:
        Console(stderr=True).print(f"{progress.num_left} runs are left. Go on with: {command}", highlight=False, soft_wrap=True)
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


def run_with_view(folder: Path, spec: SweepSpec, base: TrainSpec, num_runs: int, data_dir: Path, device: str, address: str | None) -> SweepProgress:
    """Run what is left of a sweep, with a view of it on standard error."""
    console = Console(stderr=True)
    console.print(f"Sweep: {folder}, {num_runs} runs", highlight=False, soft_wrap=True)
    with SweepView(console, groups(spec), num_runs, Ledger(folder)) as view:
        progress = run_sweep(spec, base, SweepOptions(folder, data_dir, device, address), view.listener(), _write_report)
    for failure in progress.failures:
        console.print(f"Failed: {failure}", highlight=False, markup=False, soft_wrap=True)
    if progress.spent:
        console.print(progress.spent, highlight=False, soft_wrap=True)
    return progress


def _write_report(folder: Path) -> None:
    from largebatch.tuning.report.report import write_sweep_report  # it draws: only once there is something to draw

    write_sweep_report(folder)


def _print_results(folder: Path, as_json: bool) -> None:
    answer = answer_of(find_in(folder))
    if as_json:
        print_answer(json.dumps({"sweep_dir": str(folder), **answer.numbers()}))
        return
    for line in answer.words:
        output().print(line, highlight=False, markup=False, soft_wrap=True)
    print_rows(answer.rows)
