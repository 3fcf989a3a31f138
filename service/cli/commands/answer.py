"""largebatch advise, report, scale: what runs that are there say."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import RUN_FOLDERS, AsJson

if TYPE_CHECKING:
    from largebatch.tuning.results.analysis.prediction import Miss, Predicted
    from largebatch.tuning.results.analysis.step_time import Profile
    from largebatch.tuning.results.answers import CriticalBatch
    from largebatch.tuning.results.findings import Findings
    from largebatch.tuning.results.run_result import RunResult

app = typer.Typer()
Places = Annotated[list[Path] | None, typer.Argument(metavar="FOLDER...", help=RUN_FOLDERS, show_default=False)]
Experiment = Annotated[str | None, typer.Option(help="Read an MLflow experiment instead.", show_default=False)]
MlflowUri = Annotated[str | None, typer.Option(help="MLflow's address.", envvar="MLFLOW_TRACKING_URI", show_default=False)]
Target = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Test accuracy; default what the runs were given.", show_default=False)]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE.json", help="What `largebatch profile --output` wrote.", show_default=False)
]

ReferenceRun = Annotated[
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
    reference: ReferenceRun = None,
    as_json: AsJson = False,
) -> None:
    """Say which batch size is soonest, cheapest, best within a limit, and why.

    With --profile and a single run, predict the whole curve before anything else was tried. After a sweep, with
    --profile and --reference RUN, say how far the prediction from that run was off.
    """
    from largebatch.service.cli.checks import refuse_unless_positive
    from largebatch.service.cli.tables import print_rows
    from largebatch.tuning.results.analysis.prediction import misses_in_words
    from largebatch.tuning.results.wording import answer_of

    for option, value in (("--target", target), ("--deadline", deadline), ("--max-samples", max_samples)):
        refuse_unless_positive(option, value)
    gathered = _gather(places, experiment, mlflow_uri)
    if profile is not None and reference is None:
        _predict(gathered, _read_profile(profile), target, deadline, max_samples, as_json)
        return
    findings = _find(gathered, target, deadline, max_samples)
    held = _held_against(findings, profile, reference)
    answer = answer_of(findings)
    words = [*answer.words, *held.notes]
    if as_json:
        errors = [{**miss._asdict(), "error": miss.error} for miss in held.misses]
        print_answer(json.dumps({**answer.numbers(), "words": words, "prediction_errors": errors}))
        return
    for line in words:
        print(line)
    print_rows(answer.rows)
    if held.misses:
        print(misses_in_words(held.misses))
        print_rows([miss.row() for miss in held.misses])


class _Held(NamedTuple):
    """A prediction beside what was measured."""

    profile: "Profile | None"
    predicted: "list[Predicted]"
    misses: "list[Miss]"
    notes: list[str]
    """What must be said of a profile that is not of the runs' own kind."""


def _held_against(findings: "Findings", profile: Path | None, reference: Path | None) -> _Held:
    """What the reference run and the profile predict for the batches that were measured, and how far that is off."""
    from largebatch.jobs.errors import SpecError
    from largebatch.tuning.results.analysis.prediction import compare, predict, profile_beside_runs, refuse_other_reference
    from largebatch.tuning.results.analysis.reference import Reference
    from largebatch.tuning.results.collect import collect, noise_estimates

    if profile is None:
        if reference is not None:
            hint = "Make one: largebatch profile RECIPE --output FILE"
            raise SpecError("--profile", "is missing: a prediction stands on a profile and a run.", hint)
        return _Held(None, [], [], [])
    read = _read_profile(profile)
    unlike = profile_beside_runs(read, findings.setting)
    notes = [unlike] if unlike else []
    if reference is None:
        return _Held(read, [], [], notes)
    (run,) = collect([reference])
    refuse_other_reference(run, findings.setting)
    measured = {one.global_batch_size: one.seconds.median for one in findings.best if one.seconds.median is not None}
    predicted = predict(Reference(run, noise_estimates(run)), read, findings.target, [one.global_batch_size for one in findings.best])
    return _Held(read, predicted, compare(predicted, measured), notes)


def _predict(
    gathered: "_Gathered", profile: "Profile", target: float | None, deadline: float | None, max_samples: float | None, as_json: bool
) -> None:
    from largebatch.jobs.errors import InputError
    from largebatch.service.cli.tables import print_rows
    from largebatch.tuning.results.analysis.advice import Limit
    from largebatch.tuning.results.analysis.advice import advise as advise_on
    from largebatch.tuning.results.analysis.prediction import predict, profile_beside_runs
    from largebatch.tuning.results.analysis.reference import Reference
    from largebatch.tuning.results.analysis.settings import settings_of
    from largebatch.tuning.results.answers import Choice
    from largebatch.tuning.results.collect import noise_estimates
    from largebatch.tuning.results.wording import sentences

    if len(gathered.runs) != 1:
        hint = "Give one. To see how far a prediction was off, name the run that it was made from with --reference."
        said = " ".join([f"holds {len(gathered.runs)} runs, and a prediction is made from one.", *gathered.missing])
        raise InputError("FOLDER", said, hint)
    (run,) = gathered.runs
    wanted = target if target is not None else run.summary.target_accuracy
    if wanted is None:
        raise InputError("--target", "is missing, and the run was given none.", "Example: --target 0.97.")
    unlike = profile_beside_runs(profile, next(iter(settings_of([run]))))
    reference = Reference(run, noise_estimates(run))
    critical = reference.curve(wanted).critical_batch
    predicted = predict(reference, profile, wanted, [point.global_batch_size for point in profile.points])
    choices = [
        Choice(global_batch_size=p.global_batch_size, seconds=p.seconds, samples=p.samples, learning_rate=p.learning_rate, momentum=run.momentum,
               optimizer=run.optimizer, num_seeds=0)
        for p in predicted
    ]  # fmt: skip
    limits = [Limit("seconds", deadline, None)] if deadline is not None else []
    limits += [Limit("samples", max_samples, None)] if max_samples is not None else []
    answers = advise_on(choices, limits)
    if as_json:
        answered = [answer.model_dump() for answer in answers]
        notes = [unlike] if unlike else []
        found = {"target_accuracy": wanted, "critical_batch_size": critical, "predicted": [one._asdict() for one in predicted], "advice": answered}
        print_answer(json.dumps({**found, "notes": notes}))
        return
    print(f"Predicted from run {run.summary.run_id} (critical batch {critical:,.0f} by its gradients' noise) and the profile on {profile.device}:")
    if unlike:
        print(unlike)
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
    reference: ReferenceRun = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report.html, report.json and the pictures go.")] = Path("report"),
) -> None:
    """Write the report of runs that are there: one page that opens without a network, its numbers, its pictures."""
    from largebatch.jobs.run.run_folder import refuse_unwritable
    from largebatch.service.cli.checks import refuse_unless_positive
    from largebatch.tuning.report.contents import Extras
    from largebatch.tuning.report.report import NOTHING, write_report, write_report_of_nothing
    from largebatch.tuning.results.analysis.prediction import misses_in_words
    from largebatch.tuning.results.findings import NothingEndedError
    from largebatch.tuning.results.wording import answer_of

    refuse_unless_positive("--target", target)
    refuse_unwritable(output, "--output")
    try:
        findings = _find(_gather(places, experiment, mlflow_uri), target)
    except NothingEndedError as nothing:
        page = write_report_of_nothing(output, nothing.missing)
        print("\n".join([NOTHING, *nothing.missing, f"Report: {page.resolve()}"]))
        return
    held = _held_against(findings, profile, reference)
    words = [misses_in_words(held.misses)] if held.misses else []
    extras = Extras(held.profile, held.predicted, held.misses, words=[*words, *held.notes])
    page = write_report(output, findings, extras)
    for line in [*answer_of(findings).words, *extras.words]:
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
    from largebatch.jobs.errors import SpecError
    from largebatch.service.cli.checks import refuse_unless_positive, whole_numbers
    from largebatch.service.cli.tables import output
    from largebatch.tuning.results.analysis.scaling_model import Link, scale_out

    if profile is None:
        raise SpecError("--profile", "is missing.", "Make one: largebatch profile RECIPE --output profile.json")
    for option, value in (("--target", target), ("--bandwidth", bandwidth), ("--latency", latency or None)):
        refuse_unless_positive(option, value)
    counts = whole_numbers("--workers", workers)
    measured = _read_profile(profile)
    notes = []
    known = _known_curve(critical_batch, min_samples)
    if known is None:
        critical, unlike = _measured_curve(_find(_gather(places, experiment, mlflow_uri), target), measured)
        notes += [unlike] if unlike else []
    elif places or experiment:
        raise SpecError("--critical-batch", "and runs to fit it to exclude each other.", "Give one of the two.")
    else:
        critical = known
    too_many = [f"{count:,}" for count in counts if count > measured.num_train_samples]
    if len(too_many) == len(counts):
        raise SpecError("--workers", f"{workers} are more than there are training samples ({measured.num_train_samples:,}); each worker needs one.")
    if too_many:
        notes.append(f"Left out: {', '.join(too_many)} workers, for there are {measured.num_train_samples:,} training samples and each needs one.")
    batches = [2**power for power in range(measured.num_train_samples.bit_length())] + [measured.num_train_samples]
    link = Link(bandwidth * 1e9 / 8, latency * 1e-6)
    found = scale_out(counts, batches, measured.model, critical, measured.gradient_bytes, link)
    if as_json:
        print_answer(json.dumps([one._asdict() for one in found]))
        for note in notes:
            typer.echo(note, err=True)
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
    for note in notes:
        print(note)


def _known_curve(critical_batch: float | None, min_samples: float | None) -> "CriticalBatch | None":
    """The curve that a person gave; None if none. Raises: SpecError for half of one."""
    from largebatch.jobs.errors import SpecError
    from largebatch.service.cli.checks import refuse_unless_positive
    from largebatch.tuning.results.answers import CriticalBatch

    for option, value in (("--critical-batch", critical_batch), ("--min-samples", min_samples)):
        refuse_unless_positive(option, value, "Example: --critical-batch 4000 --min-samples 2000000.")
    if critical_batch is None and min_samples is None:
        return None
    if min_samples is None or critical_batch is None:
        missing, given = ("--min-samples", "--critical-batch") if min_samples is None else ("--critical-batch", "--min-samples")
        raise SpecError(missing, f"is missing: {given} alone does not tell how many samples a batch needs.", "Give both, or runs.")
    return CriticalBatch(
        critical_batch_size=critical_batch, low=critical_batch, high=critical_batch, min_steps=min_samples / critical_batch, min_samples=min_samples,
        error=0.0, num_points=0,
    )  # fmt: skip


def _measured_curve(findings: "Findings", profile: "Profile") -> "tuple[CriticalBatch, str]":
    """The curve that runs give, and what must be said of it beside the profile. Raises: InputError."""
    from largebatch.jobs.errors import InputError
    from largebatch.tuning.results.analysis.prediction import profile_beside_runs

    if findings.critical_batch is None:
        told = f"these runs give no critical batch size; {len(findings.choices)} batch sizes reached the target, and three must."
        raise InputError("FOLDER", told, "Run a sweep first.")
    return findings.critical_batch, profile_beside_runs(profile, findings.setting)


class _Gathered(NamedTuple):
    """What was found in the places that were given."""

    runs: "list[RunResult]"
    missing: list[str]
    """What is not there, or not there yet, in sentences."""


def _gather(places: list[Path] | None, experiment: str | None, uri: str | None) -> _Gathered:
    from largebatch.jobs.errors import SpecError
    from largebatch.tuning.results.collect import collect
    from largebatch.tuning.results.experiment import collect_experiment
    from largebatch.tuning.results.run_folders import runs_of_folders
    from largebatch.tuning.results.same_data import told_apart

    if experiment is not None:
        if places:
            raise SpecError("--experiment", "and FOLDER exclude each other.", "Give one of the two.")
        if uri is None:
            raise SpecError("--mlflow-uri", "is missing.", "Example: sqlite:///runs/mlflow.db.")
        found = collect_experiment(uri, experiment)
        said = [f"Left out: {found.num_unended} runs that have not ended."] if found.num_unended else []
        if found.num_foreign:
            said.append(f"Not read: {found.num_foreign} runs that largebatch did not make.")
        return _Gathered(found.results, said)
    if not places:
        raise SpecError("FOLDER", "is missing.", "Give run folders, a sweep's folder, or --experiment.")
    looked = runs_of_folders(places)
    return _Gathered(told_apart(collect(looked.run_dirs)), looked.missing)


def _find(gathered: _Gathered, target: float | None, deadline: float | None = None, max_samples: float | None = None) -> "Findings":
    from largebatch.tuning.results.findings import find

    return find(gathered.runs, target, deadline_s=deadline, max_samples=max_samples, missing=gathered.missing)


def _read_profile(path: Path) -> "Profile":
    import pydantic

    from largebatch.jobs.errors import SpecError
    from largebatch.tuning.results.analysis.step_time import Profile
    from largebatch.tuning.results.collect import unreadable_in_words

    try:
        return Profile.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        hint = "Make one: largebatch profile RECIPE --output FILE.json"
        raise SpecError("--profile", f"{path} cannot be read as a profile: {unreadable_in_words(error)}.", hint) from error
