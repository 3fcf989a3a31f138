"""Figures of a run's branches: the critical batch along the run, and the losses that it is read from."""

from collections.abc import Sequence

from largebatch.tuning.branch.answer import DUAL, RULES, BranchAnswer
from largebatch.tuning.branch.critical import BranchedBatch
from largebatch.tuning.report.batch_figures import BATCH, in_unit
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.results.unit import Unit, unit_of


def branch_charts(answer: BranchAnswer) -> list[Chart]:
    """Both; none where nothing can be said."""
    return [along_the_run(answer), losses_by_batch(answer)] if answer.places else []


def along_the_run(answer: BranchAnswer) -> Chart:
    """Critical batch, noise scale and the schedule's batch against the samples, or tokens, seen."""
    unit, places = unit_of([answer.tokens_per_sample]), answer.places
    tuned = [(place.samples_seen, place.tuned) for place in places if place.tuned]
    series = [
        _critical("critical batch, by branches", unit, [(place.samples_seen, place.critical) for place in places]),
        *([_critical("each rate tuned", unit, tuned, colour=4)] if tuned else []),
        *_noise("noise scale", answer, [place.noise_scale for place in places], colour=1),
        *_noise(DUAL, answer, [place.dual_noise_scale for place in places], colour=3),
        *_schedule(answer),
    ]  # fmt: skip
    is_open = any(place.critical.high is None for place in places)
    return Chart(
        "critical-batch", f"Critical batch along {answer.run}", f"{unit.name} seen", unit.name, series,
        caption=_caption(answer, "an arrow: above every batch that was tried" if is_open else ""), log_y=True,
        levels=[(unit.of(answer.global_batch_size), "the run's batch")],
    )  # fmt: skip


def _critical(name: str, unit: Unit, batches: Sequence[tuple[int, BranchedBatch]], colour: int | None = None) -> Series:
    """Critical batches with their intervals, by samples seen; for one above all that was tried stands the largest of these."""
    tried = [unit.of(batch.critical_batch_size or float(max(batch.excess))) for _, batch in batches]
    highs = [None if batch.high is None else unit.of(batch.high) for _, batch in batches]
    return Series(name, [unit.of(seen) for seen, _ in batches], tried, [unit.of(batch.low) for _, batch in batches], highs, colour=colour)


def _noise(name: str, answer: BranchAnswer, scales: Sequence[float | None], colour: int) -> list[Series]:
    """What was measured of it at the checkpoints; nothing where that is none."""
    unit = unit_of([answer.tokens_per_sample])
    points = [(unit.of(place.samples_seen), unit.of(scale)) for place, scale in zip(answer.places, scales, strict=True) if scale is not None]
    return [Series(name, [x for x, _ in points], [y for _, y in points], colour=colour)] if points else []


def _schedule(answer: BranchAnswer) -> list[Series]:
    """The batch that the schedule would have, as steps; its first step stands at the checkpoint that allows it."""
    if answer.schedule is None:
        return []
    unit, batch = unit_of([answer.tokens_per_sample]), answer.global_batch_size
    x, y = list[float](), list[float]()
    factors = {samples: factor for samples, (_, factor) in zip(answer.schedule.places, answer.schedule.growth, strict=True)}
    for place in answer.places:
        if place.samples_seen in factors:
            x.append(unit.of(place.samples_seen))
            y.append(y[-1] if y else unit.of(batch))
            batch = answer.global_batch_size * factors[place.samples_seen]
        x.append(unit.of(place.samples_seen))
        y.append(unit.of(batch))
    return [Series("a batch that doubles with it", x, y, draws="line", dash=True, colour=2)]


def losses_by_batch(answer: BranchAnswer) -> Chart:
    """The excess of each batch over the run's own, in tolerances, a line for each checkpoint."""
    unit, series = unit_of([answer.tokens_per_sample]), list[Series]()
    for place in answer.places:
        critical = place.critical
        points = [(batch, excess, critical.excess_errors[batch] or 0.0) for batch, excess in critical.excess.items() if excess is not None]
        x, scale = [batch for batch, _, _ in points], critical.tolerance or 1.0
        means, errors = ([value / scale for value in values] for values in ([excess for _, excess, _ in points], [error for _, _, error in points]))
        low, high = ([mean + sign * error for mean, error in zip(means, errors, strict=True)] for sign in (-1, 1))
        series.append(Series(f"after {unit.words(place.samples_seen)}", x, means, low, high))
    batches = sorted({batch for place in answer.places for batch in place.critical.excess})
    chart = Chart(
        "branch-losses", f"Loss of larger batches after the same {unit.name}", BATCH, "excess loss, in tolerances", series,
        caption=_caption(answer, "bars: one standard error over the orders"), log_x=True, levels=[(1.0, "tolerance"), (0.0, "the run's batch")],
        x_ticks=[float(batch) for batch in batches],
    )  # fmt: skip
    return in_unit(chart, unit)


def _caption(answer: BranchAnswer, more: str) -> str:
    unit = unit_of([answer.tokens_per_sample])
    orders = max(place.critical.num_orders for place in answer.places)
    parts = [
        f"{answer.optimizer}, rate {RULES[answer.rate_power]}",
        f"branches of {unit.words(answer.num_samples)}, {orders} orders of them",
        f"{answer.evaluated_on} loss over the last quarter",
        "bars: 95 % interval" if not more.startswith("bars") else "",
        more,
    ]
    return "; ".join(filter(None, parts))
