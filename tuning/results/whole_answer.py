"""The whole answer of a set of runs: what `--json`, `report.json` and the API send, made of the parts in `answers.py`."""

from typing import Any

from pydantic import Field

from largebatch.jobs.run.records import Headline
from largebatch.tuning.results.answers import Advice, Answer, Choice, CriticalBatch, CurveCrossing, GrowthAdvice, ScorePoint, Setting, Spread
from largebatch.tuning.results.card.card import Card


class Batch(Answer):
    """The best of one batch size under one optimizer."""

    global_batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float | None
    momentum_half_life_samples: float | None = None
    """What says it, where a half-life does."""
    seconds_to_target: Spread
    steps_to_target: Spread
    samples_to_target: Spread
    best_score: Spread
    gradient_noise_scale: float | None
    search_seconds_to_target: float | None = None
    """Of the run by which the search chose these settings, which the spreads leave out; None where it missed, or none is kept apart."""
    is_chosen_by_its_runs: bool = False
    """Whether runs that the spreads hold chose these settings among others, as in sweeps of earlier versions: they are then too favourable."""
    others: dict[str, str] = Field(default_factory=dict)
    """Its values of the other fields in which the runs differ."""


class UnderOptimizer(Answer):
    """What the runs of one optimizer say alone."""

    optimizer: str
    num_runs: int
    reached: list[int]
    """The batch sizes at which its best settings reached the target."""
    missed: list[int]
    """Those at which half of their runs or more missed it."""
    advice: list[Advice]
    """Soonest, cheapest, knee, and within the limits that were given."""
    critical_batch: CriticalBatch | None
    gradient_noise_scale: float | None
    curve_crossing: CurveCrossing | None = None
    """None where no curves were found to cross, beyond seeds and evaluations."""


class SweepAdvice(Answer):
    """Soonest, cheapest, knee, and whether to grow."""

    advice: list[Advice]
    growing: list[GrowthAdvice] = Field(default_factory=list)
    """Whether the batch should grow while training, by optimizer."""
    words: list[str]
    """The same for people."""


class SweepFrontier(Answer):
    """The choices that no other beats."""

    headline: Headline
    """The metric of target and scores, and which way is better."""
    target: float
    cost_frontier: list[Choice]
    """In time and samples to the target."""
    score_frontier: list[ScorePoint]
    """In time and score."""
    critical_batch: CriticalBatch | None
    """Of the optimizer that is soonest; None for fewer than three batch sizes at which it reached the target."""


class SweepNumbers(SweepAdvice, SweepFrontier):
    """All that the runs that have ended say, as programs read it."""

    card: Card | None = None
    """The answer to begin with; None in what an earlier version wrote."""
    setting: Setting
    tokens_per_sample: int | None = None
    """Of sequences of tokens: what turns every number of samples here into tokens; None where the task does not count in them."""
    target_is_chosen: bool
    """Nobody gave the target: it is what every choice that is compared reached."""
    num_runs: int
    seeds: list[int]
    clock: str
    """What the seconds count."""
    batches: list[Batch]
    by_optimizer: list[UnderOptimizer] = Field(default_factory=list)
    gradient_noise_scale: float | None
    """In samples; the median of the batches that measured it, under the optimizer that is soonest."""
    left_out: dict[str, int]
    """Runs of other settings, and how many."""


class SweepFindings(SweepNumbers):
    """The same with what a page shows besides."""

    rows: list[dict[str, str]]
    """One line of a table for each batch size under each optimizer, in words."""
    figures: list[dict[str, Any]] | None = None
    """The report's figures, for plotly, where they were asked for: name, title, caption and figure."""

    def numbers(self) -> dict[str, Any]:
        """Plain data for `--json` and `report.json`, without what only a page shows."""
        return self.model_dump(mode="json", exclude={"rows", "figures"})
