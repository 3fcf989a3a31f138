"""What a run's branches say, for people and programs: the critical batch along the run, beside the noise scale, and the schedule it allows."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from largebatch.jobs.engine.noise_scale import NoiseSums
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.branch.critical import BranchedBatch, critical_batch
from largebatch.tuning.branch.origin import FEWEST_STEPS, Origin
from largebatch.tuning.branch.run_branches import Ask, Branched
from largebatch.tuning.branch.schedule import BatchSchedule, batch_schedule
from largebatch.tuning.branch.train import BranchResult
from largebatch.tuning.branch.tuned import TRIED, tuned_losses
from largebatch.tuning.results.analysis.growing import is_carried
from largebatch.tuning.results.answers import Answer
from largebatch.tuning.results.phrases import number
from largebatch.tuning.results.unit import Unit, in_digits, unit_of

FEWEST_ORDERS, FEW_ORDERS = 2, 2
"""One order of samples says nothing of how much another would change, and so many say little."""
RULES = {0.0: "as it is", 0.5: "by the square root of the batch", 1.0: "with the batch"}

DUAL = "dual noise scale"
"""What the noise scale in the optimizer's own norm is called."""


class Place(Answer):
    """What the branches of one checkpoint say."""

    step: int
    samples_seen: int
    critical: BranchedBatch
    noise_scale: float | None
    """Measured along the branches at the run's own batch, in samples and in the Euclidean norm; None where too little is measured."""
    dual_noise_scale: float | None = None
    """The same in the dual of the optimizer's own norm, where `gradient.noise_norm` is "optimizer"."""
    tuned: BranchedBatch | None = None
    """The critical batch where each batch has a rate of its own, which was tuned; None where that was not asked for, or is not there yet."""
    tuned_rates: dict[int, float] | None = None
    """By batch: the rate that came to the lowest loss, times the one that follows the batch."""


class BranchAnswer(Answer):
    """The answer of a run's branches."""

    run: str
    optimizer: str
    global_batch_size: int
    tokens_per_sample: int | None
    evaluated_on: str
    rate_power: float
    """Of the batch that the rate followed."""
    num_samples: int
    """Of each branch, at least."""
    num_left: int
    """Branches that were asked for, and are not there."""
    places: list[Place]
    schedule: BatchSchedule | None
    words: list[str]
    rows: list[dict[str, str]]


def answer_of_branches(origin: Origin, ask: Ask, branched: Branched, tolerance: float | None) -> tuple[BranchAnswer, TrainSpec | None]:
    """The answer, from the checkpoints that have two whole orders at least, and the recipe that follows from it."""
    plan = origin.job.plan
    places = []
    for point, results in branched.results.items():
        orders = [order for order in range(ask.num_orders) if all((order, multiple) in results for multiple in origin.multiples)]
        if len(orders) >= FEWEST_ORDERS:
            losses = np.array([[results[order, multiple].loss for multiple in origin.multiples] for order in orders])
            critical = critical_batch(losses, origin.multiples, plan.global_batch_size, tolerance)
            alike = _alike(results, critical, plan.global_batch_size)
            place = Place(step=point.checkpoint.step, samples_seen=point.position.samples_seen, critical=critical,
                          noise_scale=_noise_scale(alike, "covariance_trace", "gradient_norm_squared"),
                          dual_noise_scale=_noise_scale(alike, "dual_variance", "dual_norm_squared"))  # fmt: skip
            places.append(_with_tuned(place, origin, ask, branched.at_rates.get(point, {}), tolerance))
    scheduled = batch_schedule(plan, [(place.samples_seen, place.critical) for place in places], ask.power)
    unit = unit_of([plan.tokens_per_sample])
    answer = BranchAnswer(
        run=origin.run_dir.name,
        optimizer=plan.spec.optimizer.label,
        global_batch_size=plan.global_batch_size,
        tokens_per_sample=plan.tokens_per_sample,
        evaluated_on=origin.job.dataset.evaluated_on,
        rate_power=ask.power,
        num_samples=origin.num_samples,
        num_left=branched.num_left,
        places=places,
        schedule=scheduled[0] if scheduled else None,
        words=[],
        rows=[_row(place, unit, has_dual=any(place.dual_noise_scale is not None for place in places)) for place in places],
    )
    return answer.model_copy(update={"words": _words(answer, unit, origin.multiples[-1])}), scheduled[1] if scheduled else None


def _with_tuned(place: Place, origin: Origin, ask: Ask, at_rates: Mapping[tuple[int, int, float], BranchResult], tolerance: float | None) -> Place:
    """The place with what the branches at several rates say, from the orders that have all of them."""
    multiples, batch = origin.multiples, origin.job.plan.global_batch_size
    keys = [[[(order, multiple, times) for times in ask.rates] for multiple in multiples] for order in range(ask.num_orders)]
    whole = [of_order for of_order in keys if all(key in at_rates for of_multiple in of_order for key in of_multiple)]
    if len(ask.rates) == 1 or len(whole) < FEWEST_ORDERS:
        return place
    tuned = tuned_losses(np.array([[[at_rates[key].loss for key in of_multiple] for of_multiple in of_order] for of_order in whole]))
    rates = {batch * multiple: ask.rates[number] for multiple, number in zip(multiples, tuned.chosen, strict=True)}
    return place.model_copy(update={"tuned": critical_batch(tuned.losses, multiples, batch, tolerance), "tuned_rates": rates})


def _noise_scale(alike: Sequence[BranchResult], trace: str, norm: str) -> float | None:
    """The ratio of sums over the branches at the run's own batch, each step by its samples: both sums are unbiased, at weights that the run has.

    At that batch noise is measured seldom and between two pieces, so that for short branches the squared norm may be lost in it: where not every
    order's is above 0, all branches count that came to the run's loss, whose weights are nearly the run's.
    """
    own = [result for result in alike if result.branch.multiple == 1]
    counted = own if all(getattr(result, norm) > 0 for result in own) else alike
    traces, norms = (math.fsum(getattr(result, field) for result in counted) for field in (trace, norm))
    return NoiseSums(traces, norms).noise_scale


def _alike(results: Mapping[tuple[int, int], BranchResult], critical: BranchedBatch, global_batch_size: int) -> list[BranchResult]:
    """The branches at the run's own batch, and of the multiples that come to the same loss up to the tolerance, above or below.

    Others are at weights that the run does not come to, whose gradient has another norm; one that diverges has more of it than all of these together.
    """
    excess = {1: 0.0, **{batch // global_batch_size: value for batch, value in critical.excess.items() if value is not None}}
    return [result for (_, multiple), result in results.items() if abs(excess.get(multiple, math.inf)) <= critical.tolerance]


def in_words(batch: BranchedBatch, unit: Unit) -> str:
    """`412 (300 ... 640)`, or `above 2,048 (at least 900)`."""
    low = f"{unit.of(batch.low):,.0f}"
    if batch.critical_batch_size is None:
        return f"above {unit.of(max(batch.excess)):,.0f} (at least {low})"
    return f"{unit.of(batch.critical_batch_size):,.0f} ({low} ... {'more' if batch.high is None else f'{unit.of(batch.high):,.0f}'})"


def _row(place: Place, unit: Unit, has_dual: bool) -> dict[str, str]:
    critical = place.critical
    noise = {"noise scale": place.noise_scale, **({DUAL: place.dual_noise_scale} if has_dual else {})}
    return {
        f"{unit.name} seen": f"{unit.of(place.samples_seen):,.0f}",
        f"critical batch, {unit.name}": in_words(critical, unit),
        **({"each rate tuned": in_words(place.tuned, unit)} if place.tuned else {}),
        **{name: "-" if scale is None else f"{unit.of(scale):,.0f}" for name, scale in noise.items()},
        "loss": number(critical.loss, ".4g"),
        "tolerance": number(critical.tolerance, ".2g"),
        **{f"excess at {unit.of(batch):,.0f}": "diverged" if excess is None else f"{excess:+.2g}" for batch, excess in critical.excess.items()},
    }


def _words(answer: BranchAnswer, unit: Unit, largest: int) -> list[str]:
    """Sentences that answer, and what must be said beside them."""
    if not answer.places:
        return [f"Nothing can be said so far: no checkpoint has {FEWEST_ORDERS} whole orders of its branches; {answer.num_left} branches are left."]
    first, last = answer.places[0], answer.places[-1]
    where = f"after {unit.words(first.samples_seen)}: {in_words(first.critical, unit)} {unit.name}"
    if last is not first:
        where += f"; after {unit.words(last.samples_seen)}: {in_words(last.critical, unit)}"
    words = [f"Critical batch of {answer.run} ({answer.optimizer}, rate {RULES[answer.rate_power]}) {where}."]
    words += [*_tuned_words(answer, unit), schedule_in_words(answer, unit)]
    scales = {"noise scale": [place.noise_scale for place in answer.places], DUAL: [place.dual_noise_scale for place in answer.places]}
    for name, of_places in scales.items():
        pairs = zip([place.critical.critical_batch_size for place in answer.places], of_places, strict=True)
        if ratios := [batch / scale for batch, scale in pairs if batch is not None and scale is not None]:
            norm = f", in {answer.optimizer}'s own norm" if name == DUAL else ""
            words.append(f"That is {_range(ratios)} times the {name} measured there{norm}.")
    if any((place.critical.critical_batch_size or math.inf) < 2 * answer.global_batch_size for place in answer.places):
        words.append(
            "Where twice the run's batch loses already, the critical batch may as well be below the run's own: branch a run with a smaller batch."
        )
    if all(place.critical.critical_batch_size is None for place in answer.places):
        words.append(f"No batch that was tried loses: try larger ones (--multiples {largest * 2},{largest * 4}, --samples).")
    orders = sorted({place.critical.num_orders for place in answer.places})
    words.append(
        f"Loss: the {answer.evaluated_on} loss over the last quarter of {unit.words(answer.num_samples)}, of {' or '.join(map(str, orders))} orders; "
        "without loss: above the run's own batch by less than the tolerance, which is the standard deviation over orders unless it was given."
    )
    if orders and orders[0] <= FEW_ORDERS:
        words.append(f"{orders[0]} orders tell the critical batch and its tolerance to a factor of about two, no closer: give --orders 4.")
    if (steps := answer.num_samples / (largest * answer.global_batch_size)) < FEWEST_STEPS:
        words.append(f"The largest batch took {steps:.0f} steps in each branch, and fewer than {FEWEST_STEPS} tell little: give more --samples.")
    if answer.num_left:
        words.append(f"{answer.num_left} branches are left.")
    return words


def _tuned_words(answer: BranchAnswer, unit: Unit) -> list[str]:
    """A sentence on the critical batch where each batch's rate was tuned; none where none was."""
    places = [(place, place.tuned) for place in answer.places if place.tuned]
    if not places:
        return []
    told = "; ".join(f"after {unit.words(place.samples_seen)}: {in_words(tuned, unit)}" for place, tuned in places)
    edges = sorted({batch for place, _ in places for batch, times in (place.tuned_rates or {}).items() if times != 1.0})
    named = ", ".join(f"{unit.of(batch):,.0f}" for batch in edges)
    beside = f" Not the rule's own but the lowest or the highest of these was best at {named}." if edges else ""
    tried = ", ".join(f"{times:g}" for times in sorted(TRIED))
    return [f"With each batch at the best of {tried} times that rate, which no order judges that has chosen it: {told}.{beside}"]


def schedule_in_words(answer: BranchAnswer, unit: Unit) -> str:
    """What the schedule saves, and whether the intervals carry it."""
    schedule = answer.schedule
    if schedule is None:
        return (
            f"No schedule: twice the batch of {unit.batch(answer.global_batch_size)} is not without loss from any of these checkpoints to the last."
        )
    steps = ", ".join(f"{unit.batch(answer.global_batch_size * factor)} from epoch {in_digits(epoch, 3)}" for epoch, factor in schedule.growth)
    samples = schedule.num_more_samples
    more = f", over {unit.words(abs(samples))} {'more' if samples > 0 else 'fewer (batch.last: drop)'}" if samples else ""
    text = f"A batch of {steps} takes {schedule.num_steps:,} steps in place of {schedule.num_constant_steps:,}, {schedule.saved:.0%} fewer{more}."
    grown = [(start, answer.global_batch_size * factor) for start, (_, factor) in zip(schedule.places, schedule.growth, strict=True)]
    if is_carried(grown, [(place.samples_seen, place.critical.low) for place in answer.places]):
        return text
    return f"{text} But the interval of the critical batch reaches below it, so that it may lose: train both with several seeds."


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    ends = in_digits(low, 2), in_digits(high, 2)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
