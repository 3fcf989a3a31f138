"""largebatch advise, report, scale: what runs that are there say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from service.commands.options import AsJson, whole_numbers

if TYPE_CHECKING:
    from tuning.analysis.step_time import Profile
    from tuning.collect import RunResult
    from tuning.findings import Findings

app = typer.Typer()
Places = Annotated[
    list[Path] | None, typer.Argument(metavar="FOLDER...", help="Run folders, or folders that hold them, such as a sweep's.", show_default=False)
]
Experiment = Annotated[str | None, typer.Option(help="Read an MLflow experiment instead.", show_default=False)]
MlflowUri = Annotated[str | None, typer.Option(help="MLflow's address.", envvar="MLFLOW_TRACKING_URI", show_default=False)]
Target = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Test accuracy; default what the runs were given.", show_default=False)]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE.json", help="What `largebatch profile --output` wrote.", show_default=False)
]


@app.command(epilog="Example: largebatch advise runs/digits-batches-20260101-120000 --deadline 5")
def advise(
    places: Places = None,
    experiment: Experiment = None,
    mlflow_uri: MlflowUri = None,
    target: Target = None,
    deadline: Annotated[float | None, typer.Option(metavar="SECONDS", help="Training seconds that may be used.", show_default=False)] = None,
    max_samples: Annotated[float | None, typer.Option(help="Samples that may be used.", show_default=False)] = None,
    profile: ProfileFile = None,
    as_json: AsJson = False,
) -> None:
    """Say which batch size is soonest, cheapest, best within a limit, and why.

    With --profile and a single run, predict the whole curve before anything else was tried.
    """
    from service.tables import output

    runs = _runs(places, experiment, mlflow_uri)
    if profile is not None:
        _predict(runs, _read_profile(profile), target, deadline, max_samples, as_json)
        return
    findings = _find(runs, target, deadline, max_samples)
    if as_json:
        print(json.dumps(findings.as_dict()))
        return
    for line in findings.words():
        print(line)
    output().print(findings.table())


def _predict(
    runs: "Sequence[RunResult]", profile: "Profile", target: float | None, deadline: float | None, max_samples: float | None, as_json: bool
) -> None:
    from jobs.errors import InputError
    from service.tables import output
    from tuning.analysis.advice import Choice
    from tuning.analysis.advice import advise as advise_on
    from tuning.analysis.prediction import predict

    run = runs[0]
    wanted = target if target is not None else run.summary.target_accuracy
    if wanted is None:
        raise InputError("--target", "is missing, and the run was given none.", "Example: --target 0.97.")
    predicted = predict(run, profile, wanted, [point.global_batch_size for point in profile.points])
    choices = [Choice(p.global_batch_size, p.seconds, p.samples, p.learning_rate, run.momentum, run.optimizer) for p in predicted]
    answers = advise_on(choices, deadline, max_samples)
    if as_json:
        answered = [{"question": a.question, "choice": a.choice._asdict() if a.choice else None, "reason": a.reason} for a in answers]
        print(json.dumps({"target_accuracy": wanted, "predicted": [one._asdict() for one in predicted], "advice": answered}))
        return
    print(f"Predicted from run {run.summary.run_id} (noise scale {run.summary.gradient_noise_scale:,.0f}) and the profile on {profile.device}:")
    for one in answers:
        batch = "none" if one.choice is None else f"batch {one.choice.global_batch_size:,}, learning rate about {one.choice.learning_rate:.3g}"
        print(f"{one.question}: {batch}; {one.reason}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("batch", "s to target", "steps", "samples", "learning rate"):
        table.add_column(column, justify="right")
    for p in predicted:
        table.add_row(f"{p.global_batch_size:,}", f"{p.seconds:,.3g}", f"{p.steps:,.0f}", f"{p.samples:,.0f}", f"{p.learning_rate:.3g}")
    output().print(table)


@app.command(epilog="Example: largebatch report runs/digits-batches-20260101-120000 --output report")
def report(
    places: Places = None,
    experiment: Experiment = None,
    mlflow_uri: MlflowUri = None,
    target: Target = None,
    profile: ProfileFile = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report.html, report.json and the pictures go.")] = Path("report"),
) -> None:
    """Write the report of runs that are there: one page that opens without a network, its numbers, its pictures."""
    from tuning.report import Extras, write_report

    findings = _find(_runs(places, experiment, mlflow_uri), target, None, None)
    page = write_report(output, findings, Extras(profile=_read_profile(profile) if profile else None))
    for line in findings.words():
        print(line)
    print(f"Report: {page.resolve()}")


@app.command(epilog="Example: largebatch scale runs/digits-batches-20260101-120000 --profile profile.json --workers 1,8,64 --bandwidth 10")
def scale(
    places: Places = None,
    experiment: Experiment = None,
    mlflow_uri: MlflowUri = None,
    target: Target = None,
    profile: ProfileFile = None,
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
    from jobs.errors import InputError, SpecError
    from service.tables import output
    from tuning.analysis.critical_batch import CriticalBatch
    from tuning.analysis.scaling_model import Link, scale_out

    if profile is None:
        raise SpecError("--profile", "is missing.", "Make one: largebatch profile RECIPE --output profile.json")
    measured = _read_profile(profile)
    if critical_batch is not None and min_samples is not None:
        critical: CriticalBatch | None = CriticalBatch(
            critical_batch, critical_batch, critical_batch, min_samples / critical_batch, min_samples, 0.0, 0
        )
    else:
        critical = _find(_runs(places, experiment, mlflow_uri), target, None, None).critical_batch
    if critical is None:
        raise InputError("FOLDER", "these runs give no critical batch size; at least three batch sizes must reach the target.", "Run a sweep first.")
    counts = whole_numbers("--workers", workers)
    batches = [2**power for power in range(measured.num_train_samples.bit_length())] + [measured.num_train_samples]
    link = Link(bandwidth * 1e9 / 8, latency * 1e-6)
    found = scale_out(counts, batches, measured.model, critical, measured.gradient_bytes, link)
    if as_json:
        print(json.dumps([one._asdict() for one in found]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("workers", "best batch", "s to target", "speed-up", "efficiency", "worker seconds"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(
            f"{one.num_workers:,}", f"{one.global_batch_size:,}", f"{one.seconds:,.3g}", f"{one.speedup:,.3g}", f"{one.efficiency:.0%}",
            f"{one.worker_seconds:,.3g}",
        )  # fmt: skip
    output().print(table)
    print(f"A model, not a measurement: critical batch {critical.critical_batch_size:,.0f}, gradient {measured.gradient_bytes / 2**20:,.1f} MiB, "
          f"{bandwidth:g} Gbit/s, {latency:g} us.")  # fmt: skip


def _runs(places: list[Path] | None, experiment: str | None, uri: str | None) -> "list[RunResult]":
    from jobs.errors import SpecError
    from tuning.collect import collect, collect_experiment, ended_runs

    if experiment is not None:
        if uri is None:
            raise SpecError("--mlflow-uri", "is missing.", "Example: sqlite:///runs/mlflow.db.")
        return collect_experiment(uri, experiment)
    if not places:
        raise SpecError("FOLDER", "is missing.", "Give run folders, a sweep's folder, or --experiment.")
    return collect(run for place in places for run in (ended_runs(place) or [place]))


def _find(runs: "Sequence[RunResult]", target: float | None, deadline: float | None, max_samples: float | None) -> "Findings":
    from tuning.findings import find

    return find(runs, target, deadline_s=deadline, max_samples=max_samples)


def _read_profile(path: Path) -> "Profile":
    import pydantic

    from jobs.errors import SpecError
    from tuning.analysis.step_time import Profile

    try:
        return Profile.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise SpecError("--profile", f"{path} cannot be read as a profile: {str(error).splitlines()[0]}.", "Make one: largebatch profile") from error
