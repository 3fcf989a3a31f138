"""Predicts time to accuracy on more workers: `largebatch scale`."""

import json
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.answer.runs import gather, read_profile
from largebatch.service.cli.options import AsJson, RunsToRead, refuse_unless_positive, whole_numbers
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.results.analysis.prediction import profile_beside_runs
from largebatch.tuning.results.analysis.scaling_model import Link, scale_out
from largebatch.tuning.results.answers import CriticalBatch
from largebatch.tuning.results.findings import find

app = typer.Typer()
RunsToFit = Annotated[RunsToRead, "folders", "experiment", "mlflow_uri", "target", "profile"]


@app.command(epilog="Example: largebatch scale runs/digits-batches-20260101-120000 --profile profile.json --workers 1,8,64 --bandwidth 10")
@spread
def scale(
    runs: RunsToFit,
    workers: Annotated[str, typer.Option(metavar="N,N,...", help="How many workers to ask about.")] = "1,2,4,8,16,32,64",
    bandwidth: Annotated[float, typer.Option(metavar="GBIT/S", min=0.001, help="Of the link between workers.")] = 10.0,
    latency: Annotated[float, typer.Option(metavar="MICROSECONDS", min=0.0, help="Of the link between workers.")] = 50.0,
    critical_batch: Annotated[float | None, typer.Option(metavar="SAMPLES", help="Instead of runs: a critical batch size that is known.")] = None,
    min_samples: Annotated[float | None, typer.Option(help="With --critical-batch: samples to target at a small batch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict time to target and cost on more workers, each at its best batch size."""
    if runs.profile is None:
        raise SpecError("--profile", "is missing.", "Make one: largebatch profile RECIPE --output profile.json")
    for option, value in (("--target", runs.target), ("--bandwidth", bandwidth), ("--latency", latency or None)):
        refuse_unless_positive(option, value)
    counts = whole_numbers("--workers", workers)
    profile, curve, notes = read_profile(runs.profile), _known(critical_batch, min_samples), list[str]()
    if curve is None:
        gathered = gather(runs)
        findings = find(gathered.runs, runs.target, missing=gathered.missing)
        if findings.critical_batch is None:
            problem = f"these runs give no critical batch size; {len(findings.choices)} batch sizes reached the target, and three must."
            raise InputError("FOLDER", problem, "Run a sweep first.")
        curve = findings.critical_batch
        if findings.compares_optimizers:
            notes.append(f"The critical batch is that of the runs with {curve.optimizer}, the soonest of {', '.join(findings.by_optimizer)}.")
        notes += [note for note in [profile_beside_runs(profile, findings.setting)] if note]
    elif runs.folders or runs.experiment:
        raise SpecError("--critical-batch", "and runs to fit it to exclude each other.", "Give one of the two.")
    num_samples = profile.num_train_samples
    too_many = [f"{count:,}" for count in counts if count > num_samples]
    if len(too_many) == len(counts):
        raise SpecError("--workers", f"{workers} are more than there are training samples ({num_samples:,}); each worker needs one.")
    if too_many:
        notes.append(f"Left out: {', '.join(too_many)} workers, for there are {num_samples:,} training samples and each needs one.")
    batches = [2**power for power in range(num_samples.bit_length())] + [num_samples]
    link = Link(bandwidth * 1e9 / 8, latency * 1e-6)
    points = scale_out(counts, batches, profile.model, curve, profile.gradient_bytes, link)
    if as_json:
        print_answer(json.dumps([point._asdict() for point in points]))
        for note in notes:
            typer.echo(note, err=True)
        return
    unit = profile.unit
    table = plain_table("workers", "best batch", "s to target", "speed-up", "efficiency", "worker seconds", numbers=True)
    for point in points:
        table.add_row(
            f"{point.num_workers:,}", unit.batch(point.global_batch_size), f"{point.seconds:,.3g}", f"{point.speedup:,.3g}",
            f"{point.efficiency:.0%}", f"{point.worker_seconds:,.3g}",
        )  # fmt: skip
    output().print(table)
    print(f"A model, not a measurement: critical batch {unit.words(curve.critical_batch_size)}, gradient {profile.gradient_bytes / 2**20:,.1f} MiB, "
          f"{bandwidth:g} Gbit/s, {latency:g} us.")  # fmt: skip
    for note in notes:
        print(note)


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
