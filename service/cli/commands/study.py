"""largebatch study, profile, sharpness: measuring one's own model."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.service.cli.options import AsJson, DataDir, Device, Machines, MaybeRecipe, Overrides, Recipe
from largebatch.service.cli.typer_parameters import spread

app = typer.Typer()
Folder = Annotated[Path, typer.Option(help="Where the results go.", envvar="LARGEBATCH_OUTPUT_DIR")]


@app.command(epilog="Example: largebatch study digits-small-batch --budget 2m")
@spread
def study(
    recipe: MaybeRecipe = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock time for everything, such as 90s, 30m or 2h; 30m if not given.", show_default=False)
    ] = None,
    overrides: Overrides = (),
    data_dir: DataDir = Path("data"),
    output_dir: Folder = Path("runs"),
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with a study that was stopped.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Profile, sweep, sharpness and report in one go: which batch size reaches the target soonest, on your own model.

    A part that only adds to the answer may fail: the report says so, and --resume tries it again.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    from largebatch.service.cli.run import study as run

    study = run.begin(recipe, overrides, budget, data_dir, output_dir) if resume is None else run.resume(recipe, budget, resume)
    run.study(study, Machines(data_dir, device), as_json)


@app.command(epilog="Example: largebatch profile digits-lamb --figure figures")
@spread
def profile(
    recipe: Recipe,
    overrides: Overrides = (),
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    batch_sizes: Annotated[str | None, typer.Option(metavar="N,N,...", help="Default: 1, 2, 4 ... and the full set.", show_default=False)] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long to time each batch size.")] = 1.0,
    output: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Keep it here, for `advise` and `scale`.", show_default=False)] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the two figures here, as PNG.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Step time, epoch time, samples per second and memory against the batch size, on this machine."""
    from largebatch.service.cli.run import measure

    timing, files = measure.Timing(batch_sizes, seconds), measure.ProfileFiles(output, figure)
    measure.profile(recipe, overrides, Machines(data_dir, device), timing, files, as_json)


@app.command(epilog="Example: largebatch sharpness runs/keskar-f1-small-... runs/keskar-f1-large-... --data-dir data")
@spread
def sharpness(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)],
    other: Annotated[Path | None, typer.Argument(metavar="RUN2", help="Another, for the lines between them.", show_default=False)] = None,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    num_samples: Annotated[int, typer.Option("--samples", min=10, help="Training images that the loss is taken over.")] = 5000,
    dimensions: Annotated[int, typer.Option(min=1, help="Of the random subspace.")] = 100,
    points: Annotated[int, typer.Option(min=2, help="Places on each line.")] = 25,
    figure: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the lines' figures here, as PNG.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """How sharp the minima are that runs found: Keskar's sharpness, the top Hessian eigenvalue, the lines between two."""
    from largebatch.service.cli.run import measure

    run_dirs = [run] if other is None else [run, other]
    measure.sharpness(run_dirs, Machines(data_dir, device), measure.Sampling(num_samples, dimensions, points), figure, as_json)
