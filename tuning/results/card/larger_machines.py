"""What machines that take larger batches would change: the bound that the critical batch sets, and a model of several workers."""

from largebatch.tuning.results.analysis.cluster import Cluster, Link
from largebatch.tuning.results.analysis.doubts import beyond_in_words, size_in_words
from largebatch.tuning.results.analysis.scaling_model import BUCKETS_OVERLAP, Workload, scale_out
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import Choice, CriticalBatch
from largebatch.tuning.results.card.card import LargerMachines, OnWorkers
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import growing_left_out
from largebatch.tuning.results.unit import Unit, times_in_words

NETWORK = Cluster(Link(10e9 / 8, 50e-6))
"""Ten gigabits a second and fifty microseconds: an ordinary network between machines."""
WORKERS = 8


def larger_machines_of(findings: Findings, choice: Choice) -> LargerMachines | None:
    """None where the choice's batch grows, or its optimizer reached the target at fewer than three batch sizes."""
    critical = findings.by_optimizer[choice.optimizer].critical_batch
    if critical is None or findings.runs_of(choice).first.grows:
        return None
    begun_from = findings.begun_from
    has_profile = begun_from is not None and begun_from.profile is not None and begun_from.spec.optimizer.label == choice.optimizer
    profile = begun_from.profile if begun_from is not None and has_profile else None
    return LargerMachines(
        **critical.model_dump(include={"critical_batch_size", "is_boundless", "low", "high"}),
        fewer_steps=None if critical.high is None else 1 + critical.high / choice.global_batch_size,
        on_workers=None if profile is None or critical.is_boundless else _on_workers(profile, critical),
    )


def _on_workers(profile: Profile, critical: CriticalBatch) -> OnWorkers | None:
    """None where the profile holds one batch size alone."""
    if not profile.has_model:
        return None
    batches = [2**power for power in range(profile.num_train_samples.bit_length())] + [profile.num_train_samples]
    workload = Workload(profile.model, profile.gradient_bytes, NETWORK, BUCKETS_OVERLAP)
    scaled = scale_out([WORKERS], batches, critical, workload)
    return next((OnWorkers(num_workers=each.num_workers, global_batch_size=each.global_batch_size, seconds=each.seconds, speedup=each.speedup,
                           misfit=profile.misfit) for each in scaled), None)  # fmt: skip


def larger_machines_in_words(larger: LargerMachines | None, findings: Findings, choice: Choice) -> str:
    """A sentence or two."""
    unit = findings.unit
    if findings.runs_of(choice).first.grows:
        return "Not known: its batch grows, and the critical batch is of batches that stay."
    if larger is None:
        side = findings.by_optimizer[choice.optimizer]
        after = "" if len(side.crossed) == len(side.fitted_reached) else " after their first evaluation"
        did = f"{len(side.crossed)} of {len(side.fitted)} did{growing_left_out(side.runs)}"
        return f"Not known: that takes three batch sizes that reach the target{after}, and {did}."
    what = f"the critical batch, where a run takes twice the least steps and twice the least {unit.name}, is"
    if larger.high is None or larger.fewer_steps is None:  # then the one number that was fitted bounds nothing
        if not larger.low:
            return f"Not known: {what} anywhere, as far as the runs say. Batch sizes further apart, and more seeds of each, tell more."
        return f"Not known: {what} {beyond_in_words(larger.low, unit)}."
    fewer = times_in_words(larger.fewer_steps, 2)
    bound = f"At most {fewer} fewer steps, however large the batch" if larger.fewer_steps >= 1.1 else "Next to nothing"
    interval = f"95 % interval {unit.of(larger.low):,.0f} ... {unit.of(larger.high):,.0f}"
    return f"{bound}: {what} {size_in_words(larger.critical_batch_size, unit)} ({interval}). {_workers_in_words(larger.on_workers, unit)}".strip()


def _workers_in_words(on: OnWorkers | None, unit: Unit) -> str:
    if on is None:
        return ""
    sooner = f"{times_in_words(on.speedup, 2)} as fast as one alone" if on.speedup >= 1.1 else "no sooner than one alone"
    model = f"a model, not a measurement; its step times are within {on.misfit:.0%} of those measured"
    return f"{on.num_workers} such workers at 10 Gbit/s would be {sooner}, at batch {unit.batch(on.global_batch_size)} ({model})."
