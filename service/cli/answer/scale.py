"""Predicts time to accuracy on more workers: `largebatch scale`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.answer.cluster_options import MACHINES, ClusterOptions
from largebatch.service.cli.answer.runs import gather, read_profile
from largebatch.service.cli.figure_file import refuse_figure, write_figure
from largebatch.service.cli.options import AsJson, RunsToRead, refuse_unless_finite, refuse_unless_positive, whole_numbers
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.report.batch_figures import time_on_workers
from largebatch.tuning.results.analysis.beside import Beside, beside_runs
from largebatch.tuning.results.analysis.doubts import beyond_in_words, bias_in_words
from largebatch.tuning.results.analysis.prediction import profile_beside_runs
from largebatch.tuning.results.analysis.scaling_model import Measured, Scaled, Workload, scale_out
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import CriticalBatch
from largebatch.tuning.results.findings import Findings, find
from largebatch.tuning.results.unit import Unit, in_digits

app = typer.Typer()
RunsToFit = Annotated[RunsToRead, "folders", "experiment", "mlflow_uri", "mapping", "target", "profile"]


@app.command(
    epilog="Example: largebatch scale runs/digits-batches-20260101-120000 --profile profile.json --workers 8,64,512 "
    "--per-machine 8 --bandwidth-inside 3600 --bandwidth 400"
)
@spread
def scale(
    runs: RunsToFit,
    cluster: ClusterOptions,
    workers: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="How many workers to ask about; default 1,2,4,8,16,32,64, or so many machines.")
    ] = None,
    critical_batch: Annotated[float | None, typer.Option(metavar="SAMPLES", help="Instead of runs: a critical batch size that is known.")] = None,
    min_samples: Annotated[float | None, typer.Option(help="With --critical-batch: samples to target at a small batch.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write time to target against workers here, .html or .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict time to target and cost on more workers, each at its best batch size, and what limits it.

    Every bandwidth is one worker's own, each way. With --per-machine, machines hold so many workers on a faster link.
    """
    if runs.profile is None:
        raise SpecError("--profile", "is missing.", "Make one: largebatch profile RECIPE --output profile.json")
    refuse_unless_finite("--target", runs.target)
    cluster.check()
    refuse_figure(figure)
    profile, curve = read_profile(runs.profile), _known(critical_batch, min_samples)
    counts, notes = _counts(workers, cluster, profile.num_train_samples)
    findings = None if curve is not None else _fitted(runs)
    if findings is not None and findings.critical_batch is not None:
        curve = findings.critical_batch
        if findings.compares_optimizers:
            notes.append(f"The critical batch is that of the runs with {curve.optimizer}, the soonest of {', '.join(findings.by_optimizer)}.")
            findings = findings.leading
        notes += [note for note in [profile_beside_runs(profile, findings.setting, [run.optimizer for run in findings.runs[:1]])] if note]
    elif runs.folders or runs.experiment:
        raise SpecError("--critical-batch", "and runs to fit it to exclude each other.", "Give one of the two.")
    assert curve is not None
    of_runs = None if findings is None else beside_runs([run for best in findings.reached for run in best.runs], findings.target)
    beside, share = cluster.beside(of_runs, profile.num_train_samples), cluster.share(profile)
    workload = Workload(profile.model, profile.gradient_bytes, cluster.cluster, cluster.overlap_share, beside, share)
    batches = _batches(counts, profile.num_train_samples)
    points = scale_out(counts, batches, curve, workload, _measured(findings, profile))
    notes += _notes(points, cluster, share, beside)
    critical = profile.unit.words(curve.critical_batch_size)
    if curve.is_boundless:
        critical = beyond_in_words(curve.low, profile.unit)
        notes.append("The samples of these runs do not rise with the batch, so nothing here says from where on larger batches take longer.")
    words = f"critical batch {critical}, gradient {profile.gradient_bytes / 2**20:,.1f} MiB, {cluster.words(beside)}"
    if figure is not None:
        write_figure(figure, time_on_workers(points, profile.unit, f"{profile.recipe}, {profile.device}; {words}"))
    if as_json:
        print_answer(json.dumps([point._asdict() for point in points]))
        for note in notes:
            typer.echo(note, err=True)
        return
    _print(points, profile.unit, shows_parts=cluster.per_machine is not None)
    print(f"A model, not a measurement: {words}.")
    for note in notes:
        print(note)


def _counts(workers: str | None, cluster: ClusterOptions, num_samples: int) -> tuple[list[int], list[str]]:
    """How many workers to ask about, and a word on those left out. Raises: SpecError where each would have less than a sample."""
    counts = whole_numbers("--workers", workers) if workers else sorted({1, *(machines * (cluster.per_machine or 1) for machines in MACHINES)})
    cluster.fill_machines(counts)
    enough = [count for count in counts if count <= num_samples]
    if not enough:
        raise SpecError("--workers", f"{workers} are more than there are training samples ({num_samples:,}); each worker needs one.")
    if len(enough) == len(counts):
        return counts, []
    too_many = ", ".join(f"{count:,}" for count in counts if count > num_samples)
    return enough, [f"Left out: {too_many} workers, for there are {num_samples:,} training samples and each needs one."]


def _batches(counts: Sequence[int], num_samples: int) -> list[int]:
    """Those to choose from: powers of two, of which each worker has as much where its number is one, and their multiples by each other number."""
    powers = [2**power for power in range(num_samples.bit_length())]
    return sorted({num_samples, *(batch for count in {1, *counts} for power in powers if (batch := count * power) <= num_samples)})


def _fitted(runs: RunsToRead) -> Findings:
    gathered = gather(runs)
    findings = find(gathered.runs, runs.target, missing=gathered.missing)
    if findings.critical_batch is None:
        crossed = len(findings.leading.crossed)
        problem = f"these runs give no critical batch size; {crossed} batch sizes reached the target after a first evaluation, and three must."
        raise InputError("FOLDER", problem, "Run a sweep first.")
    return findings


def _measured(findings: Findings | None, profile: Profile) -> Measured:
    batches = None if findings is None else [best.global_batch_size for best in findings.fitted_reached]
    shares = [point.global_batch_size for point in profile.points]
    return Measured(None if batches is None else (min(batches), max(batches)), (min(shares), max(shares)))


def _notes(points: Sequence[Scaled], cluster: ClusterOptions, share: int | None, beside: Beside) -> list[str]:
    """What must be said of an answer beside its table."""
    notes = []
    if any("runs" in point.beyond for point in points):
        notes.append(
            "Beyond the runs: no batch so large, or so small, reached the target there; past what was measured a curve mostly comes out too low: "
            f"{bias_in_words()}."
        )
    if any("profile" in point.beyond for point in points):
        notes.append("Beyond the profile: no step with so many, or so few, samples a worker was timed there.")
    if share is not None:
        many = [f"{point.num_workers:,}" for point in points if point.passes > 1]
        several = f": {', '.join(many)} workers take their shares in several micro-batches" if many else ""
        notes.append(f"At most {share:,} samples fit into a worker at once{several}.")
    if cluster.per_machine is not None and not (beside.startup_s and beside.evaluation_s):
        unknown = [name for name, seconds in (("start-up", beside.startup_s), ("evaluation", beside.evaluation_s)) if not seconds]
        notes.append(f"Not counted: {' and '.join(unknown)} (--startup, --evaluation).")
    return notes


def _print(points: Sequence[Scaled], unit: Unit, *, shows_parts: bool) -> None:
    columns = ["workers", "best batch", "s to target", "speed-up", "efficiency", "worker seconds"]
    columns += ["compute s", "inside s", "between s", "evaluation s", "start-up s"] if shows_parts else []
    is_beyond = any(point.beyond for point in points)
    table = plain_table(*columns, "limited by", *(["beyond"] if is_beyond else []), numbers=True)
    for point in points:
        parts = (point.compute_s, point.link_inside_s, point.link_between_s, point.evaluation_s, point.startup_s) if shows_parts else ()
        table.add_row(
            f"{point.num_workers:,}", unit.batch(point.global_batch_size), in_digits(point.seconds, 3), in_digits(point.speedup, 3),
            f"{point.efficiency:.0%}", in_digits(point.worker_seconds, 3), *(in_digits(part, 3) for part in parts), point.limited_by,
            *([", ".join(point.beyond)] if is_beyond else []),
        )  # fmt: skip
    output().print(table)


def _known(critical_batch: float | None, min_samples: float | None) -> CriticalBatch | None:
    """The curve that a person knows without runs; None where they say nothing. Raises: SpecError for half of it."""
    for option, value in (("--critical-batch", critical_batch), ("--min-samples", min_samples)):
        refuse_unless_positive(option, value, "Example: --critical-batch 4000 --min-samples 2000000.")
    if critical_batch is None and min_samples is None:
        return None
    if critical_batch is None or min_samples is None:
        names = ("--min-samples", "--critical-batch")
        missing, other = names if min_samples is None else reversed(names)
        raise SpecError(missing, f"is missing: {other} alone does not tell how many samples a batch needs.", "Give both, or runs.")
    return CriticalBatch(
        critical_batch_size=critical_batch, low=critical_batch, high=critical_batch, min_steps=min_samples / critical_batch,
        min_samples=min_samples, error=0.0, num_points=0,
    )  # fmt: skip
