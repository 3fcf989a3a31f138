"""Whether the batch should grow while training, by optimizer: what was measured on these runs comes first, the literature where nothing was.

Which schedule helps depends on the optimizer: under AdamW a batch that grows with the critical batch saved steps at no loss; under Muon, which
holds out at large batches from the start, the one published comparison found a small loss. So the literature is told by optimizer, and a
measurement of the person's own overrules it.
"""

from collections.abc import Iterable, Sequence
from math import inf
from statistics import median
from typing import Literal, NamedTuple

from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.tuning.results.analysis.configurations import score_spread
from largebatch.tuning.results.answers import BranchedRun, Evidence, GrownSchedule, GrowthAdvice, Verdict
from largebatch.tuning.results.phrases import counted
from largebatch.tuning.results.run_result import GROWS, RunResult
from largebatch.tuning.results.unit import Unit, in_digits

CHANGES, END = (*GROWS, "batch.schedule.warmup", "batch.schedule.rate_follows"), "stop."
"""Beginnings of the fields that say whether a batch grows, that may differ between a grown run and a constant one, and that say where runs end."""
SAME_LENGTH = 0.02
"""Runs whose samples differ by less of their number are equally long: steps of a larger batch may end a little later."""

LITERATURE: dict[str, tuple[Verdict, str]] = {
    "adamw": (
        "grow",
        "a batch that doubled with the critical batch, the rate by the square root, took OLMo 1B under AdamW to a slightly better loss in 43 % fewer "
        "steps (Merrill et al., arXiv:2505.23971), and one that grows where the rate would fall came to an equal loss in about 36 % fewer "
        "(Seesaw, arXiv:2510.14717)",
    ),
    "sgd": (
        "grow",
        "a batch that grows in place of a rate that falls came to equal test accuracies after as many epochs, in fewer updates, under SGD with "
        "momentum (Smith et al., arXiv:1711.00489)",
    ),
    "muon": (
        "keep",
        "of the one comparison under Muon that is known to us, 6.3 M tokens grown to 25.2 M against a constant batch, the grown one came to a loss "
        "higher by 0.00025 to 0.00035 in 18.8 % more steps (Qwen3.8, August 2026, as a later survey quotes it)",
    ),
}  # fmt: skip
"""What published comparisons say, by optimizer: see docs/batch-size.md."""
UNKNOWN = "no published comparison of a growing with a constant batch is known to us"


class Pair(NamedTuple):
    """Runs that differ in their batch schedule alone."""

    grown: list[RunResult]
    constant: list[RunResult]


class Measured(NamedTuple):
    """What one measurement on the runs says of growing."""

    verdict: Verdict | Literal["try"] | None
    """try: it may be worth it, but chance is not ruled out; None: nothing."""
    text: str
    speaks_against: bool = False
    """Whether the grown batch came out worse, be it by chance."""


def growth_advice(runs: Sequence[RunResult], branched: Sequence[BranchedRun], unit: Unit) -> list[GrowthAdvice]:
    """One for each optimizer, in the order of their names; of a person's own, on which nothing can have been published, only what was measured."""
    told = [_of_optimizer(optimizer, runs, branched, unit) for optimizer in sorted({run.optimizer for run in runs})]
    return [each for each in told if each.evidence]


def _of_optimizer(optimizer: str, runs: Sequence[RunResult], branched: Sequence[BranchedRun], unit: Unit) -> GrowthAdvice:
    pairs = [*map(_of_pair, _pairs([run for run in runs if run.optimizer == optimizer]))]
    branches = [_of_branches(each, unit) for each in branched if each.optimizer == optimizer]
    literature, text = LITERATURE.get(optimizer, ("measure", UNKNOWN))
    published = [Evidence(source="literature", text=text)] if optimizer in OPTIMIZERS else []
    evidence = [*(Evidence(source="measured", text=measured.text) for measured in (*pairs, *branches)), *published]
    verdict = _decided(pairs, branches)
    is_recorded = all(run.is_recorded for run in runs if run.optimizer == optimizer)
    told: Verdict = literature if verdict is None else "measure" if verdict == "try" else verdict
    return GrowthAdvice(optimizer=optimizer, verdict=told, is_measured=verdict is not None, evidence=evidence, is_recorded=is_recorded)


def _decided(pairs: Sequence[Measured], branches: Sequence[Measured]) -> Verdict | Literal["try"] | None:
    """Of all measurements: whole runs speak before branches, and branches are not believed alone where a whole run speaks against them."""
    for measured in (pairs, branches):
        sure = [each.verdict for each in measured if each.verdict in {"grow", "keep"}]
        if sure:
            if len(set(sure)) > 1:  # one schedule is worth it, another is not
                return "try"
            is_doubted = measured is branches and sure[0] == "grow" and any(each.speaks_against for each in pairs)
            return "try" if is_doubted else sure[0]
    return "try" if any(each.verdict == "try" for each in branches) else None


def _pairs(runs: Sequence[RunResult]) -> list[Pair]:
    """Grown and constant runs that are equally long and alike in all else, the seed apart."""
    constant: dict[tuple[tuple[str, str], ...], list[RunResult]] = {}
    grown: dict[tuple[tuple[str, str], ...], list[RunResult]] = {}
    for run in runs:
        (grown if run.grows else constant).setdefault(run.settings, []).append(run)
    pairs = []
    for settings, members in grown.items():
        alike = [others for other, others in constant.items() if _beside_schedule(other) == _beside_schedule(settings)]
        length = median(run.summary.samples_seen for run in members)
        same = [others for others in alike if abs(median(run.summary.samples_seen for run in others) / length - 1) < SAME_LENGTH]
        if same:
            pairs.append(Pair(members, max(same, key=len)))
    return pairs


def _beside_schedule(settings: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(each for each in settings if not each[0].startswith((*CHANGES, END)))


def _of_pair(pair: Pair) -> Measured:
    """A grown batch is as good where the seeds do not tell its last score from the constant batch's, or it is better."""
    metric = pair.grown[0].metric
    grown, constant = (score_spread([run.summary.score for run in runs], metric) for runs in pair)
    steps, constant_steps = (median(run.summary.steps for run in runs) for runs in pair)
    told = " and ".join(
        f"{metric.name} {'-' if each.median is None else metric.format(each.median)} ({counted(len(runs), 'seed')}) in {count:,.0f} steps {name}"
        for each, runs, count, name in zip((grown, constant), pair, (steps, constant_steps), ("grown", "with a constant batch"), strict=True)
    )
    text = f"{pair.grown[0].name} came to {told}, {_fewer(steps, constant_steps)}"
    ends = (grown.low, grown.high, constant.low, constant.high)
    if min(len(pair.grown), len(pair.constant)) < 2 or any(end is None for end in ends):
        scores = [-inf if each.median is None else metric.goodness(each.median) for each in (grown, constant)]
        return Measured(None, f"{text}; a single seed does not say how much of that is chance", speaks_against=scores[0] < scores[1])
    goodness = [metric.goodness(end) for end in ends if end is not None]
    is_worse = max(goodness[:2]) < min(goodness[2:])
    apart = "which is worse beyond the seeds' spread" if is_worse else "which the seeds do not tell apart, or is better"
    return Measured("keep" if is_worse or steps >= constant_steps else "grow", f"{text}, {apart}", speaks_against=is_worse)


def _of_branches(run: BranchedRun, unit: Unit) -> Measured:
    schedule = run.schedule
    if schedule is None:
        text = (
            f"by the branches of {run.run} twice its batch of {unit.batch(run.global_batch_size)} is not without loss from any checkpoint to the end"
        )
        return Measured("keep" if run.places else None, text, speaks_against=bool(run.places))
    steps = ", ".join(f"{unit.batch(run.global_batch_size * factor)} from epoch {in_digits(epoch, 3)}" for epoch, factor in schedule.growth)
    saved = f"{schedule.num_steps:,} steps in place of {schedule.num_constant_steps:,}"
    if _is_sure(run, schedule):
        return Measured("grow", f"by the branches of {run.run} a batch of {steps} is without loss, {saved}; try it: largebatch train {run.recipe}")
    text = (
        f"by the branches of {run.run} a batch of {steps} takes {saved}, but the interval of the critical batch reaches below it; try it with "
        f"several seeds: largebatch train {run.recipe}"
    )
    return Measured("try", text)


def _is_sure(run: BranchedRun, schedule: GrownSchedule) -> bool:
    begins = schedule.places or [0] * len(schedule.growth)
    grown = [(start, run.global_batch_size * factor) for start, (_, factor) in zip(begins, schedule.growth, strict=True)]
    return is_carried(grown, [(place.samples_seen, place.critical.low) for place in run.places])


def is_carried(grown: Iterable[tuple[int, int]], lows: Sequence[tuple[int, float]]) -> bool:
    """Whether no interval of a critical batch, from where the batch grows on, reaches below the batch that it grows to.

    Args: grown: (samples seen, batch from there on); lows: (samples seen, lower end of the critical batch's interval there).
    """
    return all(low >= batch for start, batch in grown for seen, low in lows if seen >= start)


def _fewer(steps: float, constant_steps: float) -> str:
    change = 1 - steps / constant_steps
    if f"{abs(change):.0%}" == "0%":
        return "about as many"
    return f"{abs(change):.0%} {'fewer' if change >= 0 else 'more'}"
