"""largebatch advise, report, scale: what runs that are there say."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from service.commands.options import AsJson, whole_numbers

if TYPE_CHECKING:
    from tuning.analysis.prediction import Miss, Predicted
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

Reference = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="With --profile: the one run that a prediction was made from; says how far it was off.", show_default=False),
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
    reference: Reference = None,
    as_json: AsJson = False,
) -> None:
    """Say which batch size is soonest, cheapest, best within a limit, and why.

    With --profile and a single run, predict the whole curve before anything else was tried. After a sweep, with
    --profile and --reference RUN, say how far the prediction from that run was off.
    """
    from service.tables import output, print_rows
    from tuning.analysis.prediction import in_words

    gathered = _gather(places, experiment, mlflow_uri)
    if profile is not None and reference is None:
        _predict(gathered, _read_profile(profile), target, deadline, max_samples, as_json)
        return
    findings = _find(gathered, target, deadline, max_samples)
    _, misses = _held_against(findings, profile, reference)
    if as_json:
        print(json.dumps({**findings.as_dict(), "prediction_errors": [{**one._asdict(), "error": one.error} for one in misses]}))
        return
    for line in findings.words():
        print(line)
    output().print(findings.table())
    if misses:
        print(in_words(misses))
        print_rows([one.row() for one in misses])


def _held_against(findings: "Findings", profile: Path | None, reference: Path | None) -> "tuple[list[Predicted], list[Miss]]":
    """What the reference run and the profile predict for the batches that were measured, and how far that is off."""
    from jobs.errors import SpecError
    from tuning.analysis.prediction import compare, predict
    from tuning.collect import collect

    if reference is None:
        return [], []
    if profile is None:
        raise SpecError("--profile", "is missing: a prediction stands on a profile and a run.", "Make one: largebatch profile RECIPE --output FILE")
    measured = {one.global_batch_size: one.seconds.median for one in findings.best if one.seconds.median is not None}
    predicted = predict(collect([reference])[0], _read_profile(profile), findings.target, [one.global_batch_size for one in findings.best])
    return predicted, compare(predicted, measured)


def _predict(
    gathered: "_Gathered", profile: "Profile", target: float | None, deadline: float | None, max_samples: float | None, as_json: bool
) -> None:
    from jobs.errors import InputError
    from service.tables import print_rows
    from tuning.analysis.advice import Choice
    from tuning.analysis.advice import advise as advise_on
    from tuning.analysis.prediction import predict
    from tuning.findings import sentences

    if len(gathered.runs) != 1:
        hint = "Give one. To see how far a prediction was off, name the run that it was made from with --reference."
        said = " ".join([f"holds {len(gathered.runs)} runs, and a prediction is made from one.", *gathered.missing])
        raise InputError("FOLDER", said, hint)
    (run,) = gathered.runs
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
    for line in sentences(answers):
        print(line)
    print_rows(
        [
            {"batch": f"{p.global_batch_size:,}", "s to target": f"{p.seconds:,.3g}", "steps": f"{p.steps:,.0f}", "samples": f"{p.samples:,.0f}",
             "learning rate": f"{p.learning_rate:.3g}"}
            for p in predicted
        ]
    )  # fmt: skip


@app.command(epilog="Example: largebatch report runs/digits-batches-20260101-120000 --output report")
def report(
    places: Places = None,
    experiment: Experiment = None,
    mlflow_uri: MlflowUri = None,
    target: Target = None,
    profile: ProfileFile = None,
    reference: Reference = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report.html, report.json and the pictures go.")] = Path("report"),
) -> None:
    """Write the report of runs that are there: one page that opens without a network, its numbers, its pictures."""
    from tuning.analysis.prediction import in_words
    from tuning.findings import NothingEndedError
    from tuning.report import Extras, write_report, write_report_of_nothing

    try:
        findings = _find(_gather(places, experiment, mlflow_uri), target)
    except NothingEndedError as nothing:
        page = write_report_of_nothing(output, nothing.missing)
        print("\n".join(["No run has ended yet, so there is nothing to compare.", *nothing.missing, f"Report: {page.resolve()}"]))
        return
    predicted, misses = _held_against(findings, profile, reference)
    extras = Extras(_read_profile(profile) if profile else None, predicted, misses, words=[in_words(misses)] if misses else [])
    page = write_report(output, findings, extras)
    for line in [*findings.words(), *extras.words]:
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
        critical = _find(_gather(places, experiment, mlflow_uri), target).critical_batch
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


class _Gathered(NamedTuple):
    """What was found in the places that were given."""

    runs: "list[RunResult]"
    missing: list[str]
    """What is not there yet, in sentences."""


def _gather(places: list[Path] | None, experiment: str | None, uri: str | None) -> _Gathered:
    from jobs.errors import SpecError
    from tuning.collect import collect, collect_experiment, ended_runs, unended_runs
    from tuning.ledger import SWEEP, runs_to_come

    if experiment is not None:
        if uri is None:
            raise SpecError("--mlflow-uri", "is missing.", "Example: sqlite:///runs/mlflow.db.")
        runs, num_unended = collect_experiment(uri, experiment)
        return _Gathered(runs, [f"Left out: {num_unended} runs that have not ended."] if num_unended else [])
    if not places:
        raise SpecError("FOLDER", "is missing.", "Give run folders, a sweep's folder, or --experiment.")
    dirs: list[Path] = []
    missing: list[str] = []
    for place in places:
        ended, unended = ended_runs(place), unended_runs(place)
        is_sweep = (place / SWEEP).is_file()
        if is_sweep and (num_left := runs_to_come(place)):
            missing.append(f"Missing: {num_left} of the sweep's runs; go on with `largebatch sweep --resume {place}`.")
        elif unended and not is_sweep:
            missing.append(f"Left out: {len(unended)} runs in {place} that have not ended.")
        # A folder that holds nothing of ours is a mistake, and is told as one.
        dirs += ended if ended or unended or is_sweep else [place]
    return _Gathered(collect(dirs), missing)


def _find(gathered: _Gathered, target: float | None, deadline: float | None = None, max_samples: float | None = None) -> "Findings":
    from tuning.findings import find

    return find(gathered.runs, target, deadline_s=deadline, max_samples=max_samples, missing=gathered.missing)


def _read_profile(path: Path) -> "Profile":
    import pydantic

    from jobs.errors import SpecError
    from tuning.analysis.step_time import Profile

    try:
        return Profile.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise SpecError("--profile", f"{path} cannot be read as a profile: {str(error).splitlines()[0]}.", "Make one: largebatch profile") from error
