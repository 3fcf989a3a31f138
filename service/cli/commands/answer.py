"""largebatch advise, report, scale, compare: what runs that are there say."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.service.cli.options import RUN_FOLDERS, AsJson, RunsToRead
from largebatch.service.cli.typer_parameters import Only, spread

app = typer.Typer()
RunsToFit = Annotated[RunsToRead, Only("folders", "experiment", "mlflow_uri", "target", "profile")]


@app.command(epilog="Example: largebatch advise runs/digits-batches-20260101-120000 --deadline 5")
@spread
def advise(
    runs: RunsToRead,
    deadline: Annotated[float | None, typer.Option(metavar="SECONDS", help="Training seconds that may be used.", show_default=False)] = None,
    max_samples: Annotated[float | None, typer.Option(help="Samples that may be used.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Say which batch size is soonest, cheapest, best within a limit, and why.

    With --profile and a single run, predict the whole curve before anything else was tried. After a sweep, with
    --profile and --reference RUN, say how far the prediction from that run was off.
    """
    from largebatch.service.cli.answer import advise

    advise.advise(runs, deadline, max_samples, as_json)


@app.command(epilog="Example: largebatch report runs/digits-batches-20260101-120000 --output report")
@spread
def report(
    runs: RunsToRead,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report.html, report.json and the pictures go.")] = Path("report"),
) -> None:
    """Write the report of runs that are there: one page that opens without a network, its numbers, its pictures."""
    from largebatch.service.cli.answer import report

    report.report(runs, output)


@app.command(epilog="Example: largebatch scale runs/digits-batches-20260101-120000 --profile profile.json --workers 1,8,64 --bandwidth 10")
@spread
def scale(
    runs: RunsToFit,
    workers: Annotated[str, typer.Option(metavar="N,N,...", help="How many workers to ask about.")] = "1,2,4,8,16,32,64",
    bandwidth: Annotated[float, typer.Option(metavar="GBIT/S", min=0.001, help="Of the link between workers.")] = 10.0,
    latency: Annotated[float, typer.Option(metavar="MICROSECONDS", min=0.0, help="Of the link between workers.")] = 50.0,
    critical_batch: Annotated[
        float | None, typer.Option(metavar="SAMPLES", help="Instead of runs: a critical batch size that is known.", show_default=False)
    ] = None,
    min_samples: Annotated[float | None, typer.Option(help="With --critical-batch: samples to target at a small batch.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Predict time to accuracy and cost on more workers, each at its best batch size."""
    from largebatch.service.cli.answer import scale

    scale.scale(runs, workers, scale.Network(bandwidth, latency), scale.KnownCurve(critical_batch, min_samples), as_json)


@app.command(epilog="Example: largebatch compare runs/digits-small-* runs/digits-large-* --figure compare.html")
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help=RUN_FOLDERS, show_default=False)],
    figure: Annotated[Path | None, typer.Option(help="Write accuracy against training seconds here, .html or .png.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: a table, and a figure of accuracy against training seconds.

    A sweep stands for its runs, a study for those of its sweep.
    """
    from largebatch.service.cli.answer import compare

    compare.compare(folders, figure, as_json)
