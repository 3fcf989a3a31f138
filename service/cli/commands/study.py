"""Begins or resumes a study and runs its stages: `largebatch study`.

Torch is not imported here: the process that will train the sweep's runs begins first, and imports it meanwhile.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.launch.options import RECIPE, DataDir, Device, Overrides
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson, seconds_of
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.files import REPORT_NUMBERS
from largebatch.tuning.sweep.trials.warm.warm_processes import WarmProcesses

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
    began_s = time.monotonic()
    names = [name.strip() for name in (optimizers or "").split(",") if name.strip()]
    if optimizers is not None and not names:
        raise SpecError("--optimizers", "names none.", f"Known: {', '.join(OPTIMIZERS)}.")
    if (recipe is None) == (resume is None):
        raise SpecError("RECIPE", "give either a recipe or --resume DIR.")
    spec, budget_s = None if recipe is None else read_spec(recipe, overrides), None if budget is None else seconds_of(budget)
    with WarmProcesses() as warm:
        if device != "cuda":
            warm.provide(1)
        # The lazy gate to torch: see above.
        from largebatch.service.cli.study_view import begin, discard_unmeasured, go_on, study_with_view
        from largebatch.tuning.sweep.sweep import resume_command

        if spec is not None:
            folder = begin(spec, budget_s, names, data_dir, device, output_dir)
        else:
            assert resume is not None
            folder = go_on(resume, budget_s, names)
        print(f"Study: {folder}", file=sys.stderr)
        try:
            is_whole = study_with_view(folder, data_dir, device, warm, began_s, partial(_print_answer, folder, as_json))
        except InputError as error:
            if resume is None and (told := discard_unmeasured(folder, error)):
                print(told, file=sys.stderr)
            raise
    if not is_whole:
        print(f"Stopped. Go on with: {resume_command('study', folder, data_dir, device)}", file=sys.stderr)
        raise typer.Exit(4)


def _print_answer(folder: Path, as_json: bool, page: Path) -> None:
    from largebatch.service.cli.card_view import print_card  # see above
    from largebatch.tuning.results.card.card import Card

    numbers = json.loads((page.parent / REPORT_NUMBERS).read_text())
    if as_json:
        print_answer(json.dumps({"study_dir": str(folder), "report": str(page), **numbers}))
        return
    print_card(Card.model_validate(numbers["card"]))
    print("\n".join([*numbers["words"], f"Report: {page.resolve()}"]), flush=True)
