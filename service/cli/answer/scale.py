"""Predicts time to accuracy on more workers: `largebatch scale`."""

import json
from typing import NamedTuple

import typer

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.answer.runs import find_in, gather, read_profile
from largebatch.service.cli.checks import refuse_unless_positive, whole_numbers
from largebatch.service.cli.options import RunsToRead
from largebatch.service.cli.tables import output, plain_table
from largebatch.tuning.results.analysis.prediction import profile_beside_runs
from largebatch.tuning.results.analysis.scaling_model import Link, scale_out
from largebatch.tuning.results.answers import CriticalBatch
from largebatch.tuning.results.findings import Findings


class Network(NamedTuple):
    """The link between workers."""

    gigabits_per_s: float
    latency_us: float


class KnownCurve(NamedTuple):
    """What a person knows of the model without runs: both, or nothing."""

    critical_batch: float | None
    min_samples: float | None

    def curve(self) -> CriticalBatch | None:
        """The curve through the two; None for nothing. Raises: SpecError for half of it."""
        for option, value in (("--critical-batch", self.critical_batch), ("--min-samples", self.min_samples)):
            refuse_unless_positive(option, value, "Example: --critical-batch 4000 --min-samples 2000000.")
        if self.critical_batch is None and self.min_samples is None:
            return None
        if self.critical_batch is None or self.min_samples is None:
            names = ("--min-samples", "--critical-batch")
            missing, other = names if self.min_samples is None else reversed(names)
            raise SpecError(missing, f"is missing: {other} alone does not tell how many samples a batch needs.", "Give both, or runs.")
        batch, samples = self.critical_batch, self.min_samples
        return CriticalBatch(
            critical_batch_size=batch, low=batch, high=batch, min_steps=samples / batch, min_samples=samples, error=0.0, num_points=0
        )


def scale(runs: RunsToRead, workers: str, network: Network, known: KnownCurve, as_json: bool) -> None:
    """Print what more workers would bring, by the model."""
    if runs.profile is None:
        raise SpecError("--profile", "is missing.", "Make one: largebatch profile RECIPE --output profile.json")
    for option, value in (("--target", runs.target), ("--bandwidth", network.gigabits_per_s), ("--latency", network.latency_us or None)):
        refuse_unless_positive(option, value)
    counts = whole_numbers("--workers", workers)
    profile, curve, notes = read_profile(runs.profile), known.curve(), list[str]()
    if curve is None:
        findings = find_in(gather(runs), runs.target)
        curve = _measured(findings)
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
    link = Link(network.gigabits_per_s * 1e9 / 8, network.latency_us * 1e-6)
    points = scale_out(counts, batches, profile.model, curve, profile.gradient_bytes, link)
    if as_json:
        print_answer(json.dumps([point._asdict() for point in points]))
        for note in notes:
            typer.echo(note, err=True)
        return
    table = plain_table("workers", "best batch", "s to target", "speed-up", "efficiency", "worker seconds", numbers=True)
    for point in points:
        table.add_row(
            f"{point.num_workers:,}", f"{point.global_batch_size:,}", f"{point.seconds:,.3g}", f"{point.speedup:,.3g}", f"{point.efficiency:.0%}",
            f"{point.worker_seconds:,.3g}",
        )  # fmt: skip
    output().print(table)
    print(f"A model, not a measurement: critical batch {curve.critical_batch_size:,.0f}, gradient {profile.gradient_bytes / 2**20:,.1f} MiB, "
          f"{network.gigabits_per_s:g} Gbit/s, {network.latency_us:g} us.")  # fmt: skip
    for note in notes:
        print(note)


def _measured(findings: Findings) -> CriticalBatch:
    """The curve that runs give. Raises: InputError."""
    if findings.critical_batch is None:
        problem = f"these runs give no critical batch size; {len(findings.choices)} batch sizes reached the target, and three must."
        raise InputError("FOLDER", problem, "Run a sweep first.")
    return findings.critical_batch
