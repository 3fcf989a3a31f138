"""Branches a run from its checkpoints: `largebatch branch`."""

import json
import sys
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Annotated, Literal

import typer
from rich.console import Console

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.options import DataDir, Device
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.run.run_folder import SPEC, exclusive
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.console import print_plain, time_left
from largebatch.service.cli.options import AsJson, refuse_unless_positive, seconds_of, whole_numbers
from largebatch.service.cli.tables import print_rows
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.branch.branch import Left, branch_run
from largebatch.tuning.branch.origin import Origin, Wanted, open_origin
from largebatch.tuning.branch.run_branches import Ask, BranchListener, power_of
from largebatch.tuning.branch.train import Branch, BranchResult
from largebatch.tuning.branch.trainers.choose import SideBySide, trainer_for
from largebatch.tuning.branch.trainers.trainer import GO_ON, Trainer
from largebatch.tuning.branch.tuned import TRIED

app = typer.Typer()


@app.command(epilog="Example: largebatch branch runs/digits-small-batch-... --budget 1h --address 10.0.0.1:6379")
@spread
def branch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that is over or was stopped, and has kept checkpoints.")],
    steps: Annotated[str | None, typer.Option(metavar="N,N,...", help="Steps of the checkpoints; default six, evenly chosen.")] = None,
    multiples: Annotated[str | None, typer.Option(metavar="K,K,...", help="Of the batch; default 2,4,8,... with room for 32 steps.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Each branch trains on; default a tenth of the run's.")] = None,
    orders: Annotated[int, typer.Option(min=2, help="Of the samples, for each batch: the run's own, and others; they measure the noise.")] = 4,
    rate: Annotated[
        Literal["auto", "none", "sqrt", "linear", "tuned"],
        typer.Option(help="How the rate follows the batch; auto: sqrt for Adam's kin, linear for SGD's; tuned: auto, half and twice that, too."),
    ] = "auto",
    tolerance: Annotated[float | None, typer.Option(help="In the loss; default the standard deviation over the orders.")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall-clock time, such as 90s, 30m or 2h; what is left then waits.")] = None,
    *,
    side_by_side: SideBySide,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The critical batch along a run: short branches from its checkpoints, with ever larger batches over the same samples.

    Keep checkpoints along a run with --set checkpoint.every_steps=N --set checkpoint.keep=20. Asked again, it goes on with what is left.
    Branches train one after the other in this process; with --address or --max-concurrent, or on a machine with several GPUs, side by side, by Ray.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    refuse_unless_positive("--tolerance", tolerance)
    refuse_unless_positive("--cpus-per-worker", side_by_side.cpus_per_worker)
    refuse_unless_positive("--gpus-per-worker", side_by_side.gpus_per_worker or None)
    wanted = Wanted(
        None if steps is None else whole_numbers("--steps", steps), None if multiples is None else whole_numbers("--multiples", multiples), samples
    )
    budget_s = float("inf") if budget is None else seconds_of(budget)
    if not run.is_dir() or not (run / SPEC).is_file():
        raise SpecError("RUN", f"{run} is not a run's folder: it has no {SPEC}.", "Give the folder that the run printed.")
    with exclusive(run, "train"):  # nobody goes on with it, and prunes its checkpoints, meanwhile
        origin = open_origin(run, wanted, choose_device(device), data_dir)
        power = power_of(rate, origin.job.spec.optimizer)
        ask = Ask(orders, power, budget_s, TRIED if rate == "tuned" else (1.0,))
        with trainer_for(origin, side_by_side, device) as trainer:
            left = _branch_with_view(origin, ask, tolerance, trainer)
    answer = left.answer
    if as_json:
        recipe = None if left.recipe is None else str(left.recipe)
        print_answer(json.dumps({"folder": str(left.folder), "recipe": recipe, **answer.model_dump(mode="json")}))
    else:
        if answer.rows:
            print_rows(answer.rows)
        print("\n".join([*answer.words, f"Figures and numbers: {left.folder}"]))
        if left.recipe is not None:
            print(f"The schedule as a recipe: largebatch train {left.recipe}")
    if answer.num_left:
        print(GO_ON, file=sys.stderr)
        raise typer.Exit(4)


def _branch_with_view(origin: Origin, ask: Ask, tolerance: float | None, trainer: Trainer) -> Left:
    """Show each branch while it trains; a signal asks to stop, in this process after the step under way."""
    console, stops = Console(stderr=True), False
    notice = partial(print_plain, console)

    def stop(number: Signals, is_impatient: bool) -> str:
        nonlocal stops
        if is_impatient:
            raise KeyboardInterrupt
        stops = True
        branches = "the branch under way is" if trainer.num_concurrent == 1 else "branches under way are"
        return f"{number.name}: stopping; {branches} not kept."

    batch = origin.job.plan.global_batch_size
    if trainer.num_concurrent > 1:
        notice(f"{trainer.num_concurrent} branches at a time, side by side")
    with console.status("") as status, stop_requests(stop, notice):

        def on_begin(done: int, of: int, branch: Branch, seconds_left: float | None) -> None:
            where = f"order {branch.order + 1} of {ask.num_orders}, from step {branch.step:,}, batch {batch * branch.multiple:,}"
            at = "" if branch.rate_times == 1 else f", {branch.rate_times:g} times the rate"
            status.update(f"branch {done + 1}/{of}: {where}{at}, {time_left(seconds_left)}")
            if branch.multiple == 1 and branch.rate_times == 1:
                notice(f"branch {done + 1}/{of}: order {branch.order + 1} of {ask.num_orders}, from step {branch.step:,}")

        def on_end(result: BranchResult) -> None:
            if result.losses is None:
                at = "" if result.branch.rate_times == 1 else f" at {result.branch.rate_times:g} times the rate"
                notice(f"  batch {batch * result.branch.multiple:,} diverged{at}")

        return branch_run(origin, ask, tolerance, BranchListener(on_begin, on_end, notice, lambda: stops), trainer)
