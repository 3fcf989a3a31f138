"""The learning rate of each batch size by short runs, the same search for each: `largebatch find-rate`.

A short run is the recipe in miniature: fewer samples, warm-up, decay and an average's half-life shorter by as much, the same first weights and the
same samples in the same order at every rate. The loop that trains runs trains it, and it is judged by its loss on what the recipe evaluates, at its
end.

A test in which the rate rises within one run (Smith, arXiv:1506.01186) needs one run where this needs about ten. But its loss lags behind its
rate, the more the fewer steps there are, so that large batches come out with rates that are too high or too low by how fast it rises; and it knows
no warm-up, no decay and no optimizer's state of its own for each rate. Short runs ask the question itself, over a shorter horizon. That matters too:
the best rate of a short run tends to be below that of a long one where noise is most of the gradient (Wu et al., arXiv:1803.02021), the less the more
samples it has. A sweep (`largebatch study`) asks whole runs.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.engine.loop import train
from largebatch.jobs.errors import DivergedError, InputError
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.plan.learning_rate import scale
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.preparing.batches import evaluation_batches, training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.records import EvalRecord, Record, StepRecord
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.measure.rate_search import find_rate
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.results.unit import Unit, unit_of
from largebatch.tuning.sweep.space import with_fields

SHARE, FEWEST_STEPS = 0.1, 32
"""Of the recipe's samples a short run trains on, where nobody said; and so many steps of the largest batch at least, if the recipe has them."""


class TriedRate(Record):
    """One short run."""

    learning_rate: float
    loss: float | None
    """None: it diverged."""


class BatchRate(Record):
    """The learning rate of one batch size."""

    global_batch_size: int
    learning_rate: float
    """At the peak of the schedule; the one with the lowest loss of those tried."""
    low: float | None
    """Tried next below it; None where no lower one was."""
    high: float | None
    """Tried next above it."""
    loss: float
    num_steps: int
    """Of each short run."""
    tried: tuple[TriedRate, ...]
    """By rising rate."""
    fields: dict[str, int | float | str]
    """Of the recipe, what trains it so: batch and rate, and what the recipe's own scaling makes of its warm-up and of a rate that begins again."""


class Rates(NamedTuple):
    """What was found, and of which runs."""

    batches: list[BatchRate]
    num_samples: int
    """Of each short run."""
    share: float
    """Of the recipe's samples."""
    evaluated_on: str
    unit: Unit


def find_rates(
    spec: TrainSpec,
    prepare: Callable[[TrainSpec], Prepared],
    batches: Sequence[int] | None = None,
    num_samples: int | None = None,
    on_run: Callable[[int, float], None] = lambda batch, rate: None,
) -> Rates:
    """The rate of each batch size.

    Args:
        prepare: makes a job ready.
        batches: None: the recipe's own.
        num_samples: of each short run; None: see `SHARE`.
        on_run: told the batch and the rate before each.
    Raises: InputError for a batch that cannot be trained, or where every rate diverges.
    """
    recipe = prepare(with_fields(spec, {"batch.schedule": {}}))
    plan, sizes = recipe.plan, sorted(set(batches or [recipe.plan.global_batch_size]))
    total = plan.total_progress
    if num_samples is not None and num_samples < sizes[-1]:
        problem = f"{num_samples:,} are less than one step of the largest batch, {sizes[-1]:,}."
        raise InputError("--samples", problem, f"Give {FEWEST_STEPS} steps of it: {FEWEST_STEPS * sizes[-1]}.")
    wanted = num_samples or max(SHARE * total, FEWEST_STEPS * sizes[-1])
    share = min(wanted / total, 1.0)
    found = []
    for batch in sizes:
        scaled = scale(spec.learning_rate, batch, plan.base_global_batch_size)
        follows = spec.learning_rate.scaling == "none"
        first = scaled.peak * (batch / plan.global_batch_size) ** (spec.optimizer.batch_power if follows else 0.0)
        whole = replace(plan, spec=with_fields(spec, {"batch.global_batch_size": batch}), global_batch_size=batch)
        epochs = share * total / (whole.samples_per_epoch or total)  # 0: no batch is so large, which is refused below
        job = prepare(short_spec(spec, batch, float(f"{first:.3g}"), share, epochs, scaled.warmup_epochs))
        found.append(_rate_of(job, _scaled_fields(whole), on_run))
    return Rates(found, round(share * total), share, recipe.dataset.evaluated_on, unit_of([plan.tokens_per_sample]))


def short_spec(spec: TrainSpec, batch: int, rate: float, share: float, epochs: float, warmup_epochs: float) -> TrainSpec:
    """The recipe in miniature. Args: share: of its length; epochs: what that comes to; warmup_epochs: the recipe's own at this batch."""
    optimizer, short = spec.optimizer.for_share(share).model_dump(mode="json"), spec.batch.schedule.short_sequences
    of_average = {} if spec.ema is None else {"ema.decay": max(spec.ema.decay ** (1 / share), sys.float_info.min)}
    return with_fields(
        spec,
        {
            "batch.global_batch_size": batch,
            "batch.schedule": {} if short is None else {"short_sequences": {"length": short.length, "epochs": short.epochs * share}},
            "optimizer": optimizer,
            **of_average,
            "learning_rate.base": rate,
            "learning_rate.scaling": "none",
            "learning_rate.warmup_epochs": warmup_epochs * share,
            "learning_rate.decay_milestones": [milestone * share for milestone in spec.learning_rate.decay_milestones],
            "learning_rate.restart": None,
            "stop": {"epochs": epochs},
            "gradient.noise_every_steps": 0,
            "evaluation.every_epochs": epochs + 1,  # at its end, as always
        },
    )


def _scaled_fields(plan: TrainPlan) -> dict[str, int | float | str]:
    """What of a recipe's rate its rule, in whose place one comes that was found, scales beside the peak. Args: plan: the recipe's, at the batch."""
    rate = plan.spec.learning_rate
    if rate.scaling == "none":
        return {}
    first, last = plan.rate_phases[0].scaled, plan.rate_phases[-1].scaled
    fields: dict[str, int | float | str] = {"learning_rate.scaling": "none", "learning_rate.warmup_epochs": first.warmup_epochs}
    again = {"learning_rate.restart.base": last.peak, "learning_rate.restart.warmup_epochs": last.warmup_epochs}
    return fields if rate.restart is None else {**fields, **again}


def _rate_of(job: Prepared, scaled_fields: dict[str, int | float | str], on_run: Callable[[int, float], None]) -> BatchRate:
    batch, steps = job.plan.global_batch_size, job.plan.total_steps

    def loss_of(rate: float) -> float:
        on_run(batch, rate)
        return loss_of_short_run(job, rate)

    found = find_rate(loss_of, job.spec.learning_rate.base)
    if found is None:
        problem = f"every learning rate that was tried at a batch of {batch:,} diverged."
        raise InputError("learning_rate.base", problem, "Set gradient.clip_norm or a warm-up, or look at the data and the loss.")
    tried = tuple(TriedRate(learning_rate=rate, loss=None if math.isinf(loss) else loss) for rate, loss in found.losses.items())
    fields = {"batch.global_batch_size": batch, "learning_rate.base": found.rate, **scaled_fields}
    return BatchRate(
        global_batch_size=batch, learning_rate=found.rate, low=found.low, high=found.high, loss=found.losses[found.rate],
        num_steps=steps, tried=tried, fields=fields,
    )  # fmt: skip


def loss_of_short_run(job: Prepared, rate: float) -> float:
    """The loss at the end of a job's run with another learning rate; infinite where it diverges. The model is afterwards what it was before."""
    spec = with_fields(job.spec, {"learning_rate.base": rate})
    job = replace(job, spec=spec, plan=replace(job.plan, spec=spec))
    part, last = job.dataset.evaluated, _Last()
    with restored(job.model):
        state = new_state(job)
        score = partial(evaluate, state, evaluation_batches(job, part), len(part), spec.precision)
        try:
            train(state, job.plan, training_batches(job), score, last, lambda is_best: None, lambda: False, job.dataset.evaluated_on)
        except DivergedError:
            return math.inf
    return last.loss


class _Last:
    """A run's tracker that remembers the last evaluation's loss alone."""

    loss = math.inf

    def write(self, record: StepRecord | EvalRecord) -> None:
        """See `Tracker`."""
        if isinstance(record, EvalRecord):
            self.loss = record.loss

    def notice(self, text: str) -> None:
        """See `Tracker`. Nothing is said of one short run."""


def rates_chart(rates: Rates, setting: str) -> Chart:
    """Loss against learning rate, a line for each batch with its best ringed; what diverged stands as a cross at the highest loss."""
    ended = [(found, [tried for tried in found.tried if tried.loss is not None]) for found in rates.batches]
    series = [
        Series(f"batch {rates.unit.batch(found.global_batch_size)}: {found.learning_rate:g}", [tried.learning_rate for tried in tries],
               [tried.loss for tried in tries if tried.loss is not None])
        for found, tries in ended
    ]  # fmt: skip
    losses = [loss for line in series for loss in line.y]
    best = [(found.learning_rate, found.loss) for found in rates.batches]
    series.append(Series("lowest loss", [rate for rate, _ in best], [loss for _, loss in best], draws="marks", symbol="ring", mark_size=2, colour=6))
    if diverged := [tried.learning_rate for found in rates.batches for tried in found.tried if tried.loss is None]:
        series.append(Series("diverged", diverged, [max(losses)] * len(diverged), draws="marks", symbol="x", colour=6))
    return Chart(
        "learning-rates", "Loss of short runs against their learning rate", "learning rate", f"{rates.evaluated_on} loss", series,
        caption=f"{setting}; {rates.unit.words(rates.num_samples)} each, {rates.share:.0%} of the recipe's; one seed",
        log_x=True, log_y=min(losses) > 0,
    )  # fmt: skip
