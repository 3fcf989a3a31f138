"""What runs say together, as frozen models: `report.json`, `--json` and the API answer with these as they are.

They import nothing heavy, so that the service can hold them without numpy in its process.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from largebatch.jobs.tasks.metric import ACCURACY


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Setting(Answer):
    """What all the runs have in common; others cannot stand on the same axes."""

    dataset: str
    """With its arguments."""
    model: str
    """With the arguments that all of the runs share."""
    device: str
    world_size: int
    metric: str = ACCURACY.name
    """What the runs are judged by."""
    task: str = ""
    """The task that it is of, with the options that change what is measured; empty for classification."""
    evaluated_on: Literal["test", "validation"] = "test"
    """The part of the data that it is taken on."""

    def __str__(self) -> str:
        workers = f", {self.world_size} workers" if self.world_size > 1 else ""
        metric = self.metric if self.evaluated_on == "test" else f"{self.evaluated_on} {self.metric}"
        metric += f" of {self.task}" if self.task else ""
        judged = "" if metric == ACCURACY.name else f", by {metric}"
        return f"{self.model} on {self.dataset}, {self.device}{workers}{judged}"


class Spread(Answer):
    """What several seeds say together. A miss counts as later than every hit."""

    median: float | None
    """None where half of the runs or more missed."""
    low: float | None
    high: float | None
    """None where the interval reaches into the misses."""
    num_reached: int
    num_runs: int

    @property
    def text(self) -> str:
        """`12.3 (11.9 ... 13.0), 5 of 5`; `12.3, one seed` of one, which has no interval."""
        reached = f"{self.num_reached} of {self.num_runs}"
        if self.median is None:
            return f"missed ({reached} reached)"
        if self.num_runs == 1:
            return f"{_digits(self.median)}, one seed"
        low, high = ("missed" if end is None else _digits(end) for end in (self.low, self.high))
        return f"{_digits(self.median)} ({low} ... {high}), {reached}"

    def times(self, factor: float) -> "Spread":
        """The same in a smaller unit."""
        median, low, high = (None if value is None else value * factor for value in (self.median, self.low, self.high))
        return self.model_copy(update={"median": median, "low": low, "high": high})

    @property
    def negated(self) -> "Spread":
        """Of what is the better the larger, where misses rank below every hit."""
        median, low, high = (None if value is None else -value for value in (self.median, self.high, self.low))
        return self.model_copy(update={"median": median, "low": low, "high": high})


def _digits(value: float) -> str:
    """Four that count; whole numbers in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


Interval = tuple[float, float | None]
"""Of several seeds; its end is None where it reaches into misses."""


class Choice(Answer):
    """A batch size with what it costs to the target, measured or predicted."""

    global_batch_size: int
    seconds: float
    samples: float
    learning_rate: float
    momentum: float | None
    momentum_half_life_samples: float | None = None
    """What says it, where a half-life does."""
    optimizer: str
    """Its name; of a person's own its entry point."""
    num_seeds: int
    """0: predicted, not run."""
    grows: bool = False
    """Whether its batch grows while training: `global_batch_size` is then that of its beginning."""
    seconds_interval: Interval | None = None
    """None for a single seed, and where costs are predicted or those to a limit."""
    samples_interval: Interval | None = None
    """As `seconds_interval`."""
    seconds_between_evaluations: float | None = None
    """From the last evaluation that missed the target to the one that met it, the median of the seeds: costs no farther apart are not told apart.
    None where costs are predicted or those to a limit."""
    samples_between_evaluations: float | None = None
    """As `seconds_between_evaluations`."""
    others: dict[str, str] = {}
    """Its values of the other fields in which the runs differ."""

    def is_same_step(self, other: "Choice") -> bool:
        """Whether a step of both costs as much: of one batch that stays, with one optimizer."""
        if self.grows or other.grows:
            return False
        return (self.global_batch_size, self.optimizer) == (other.global_batch_size, other.optimizer)


class Tie(Answer):
    """Another choice that the measurements do not tell from the one that is named."""

    global_batch_size: int
    optimizer: str
    by: Literal["seeds", "evaluations"]
    """seeds: the intervals overlap; evaluations: the costs differ by no more than the way between the evaluations
    that they are read off."""


class Advice(Answer):
    """One answer with its reason."""

    question: str
    """soonest, cheapest, knee, or within a limit."""
    choice: Choice | None
    """None where no choice keeps the limit."""
    reason: str
    ties: list[Tie] = []
    """The choices that are not told from it: as soon, as cheap, as good."""


class ScorePoint(Answer):
    """Where no run of any batch had been as good sooner."""

    seconds: float
    score: float
    global_batch_size: int
    optimizer: str = ""


class CriticalBatch(Answer):
    """The fit of (S/S_min - 1)(E/E_min - 1) = 1: S steps and E samples to the target."""

    critical_batch_size: float
    """B_crit in samples."""
    low: float
    """Of the 95 % interval; 0 where the points do not bound it."""
    high: float | None
    """Of the 95 % interval; None where the points do not bound it."""
    min_steps: float
    """S_min: steps at an endless batch."""
    min_samples: float
    """E_min: samples at the smallest batch."""
    error: float
    """Standard deviation of log E about the curve: 0.05 is five per cent."""
    num_points: int
    optimizer: str | None = None
    """Whose runs it is fitted to; None where it is not from runs."""
    largest_batch: float | None = None
    """The largest it is fitted to, beyond which the curve mostly comes out too low; None where it is not from points."""
    is_boundless: bool = False
    """Whether `critical_batch_size` is where the search for it ended, and `min_steps` follows from that: the samples do not rise with the batch, so
    nothing bounds it from above, and `low` alone is a finding."""

    def samples_to_target(self, batch: float) -> float:
        """E at a batch."""
        return self.min_samples * (1 + batch / self.critical_batch_size)

    def steps_to_target(self, batch: float) -> float:
        """S at a batch."""
        return self.samples_to_target(batch) / batch


class CurveCrossing(Answer):
    """Two batches whose curves of score against samples cross, so that one critical batch for all targets does not exist."""

    smaller_batch: int
    larger_batch: int
    at_score: float
    """To this, which is below the target, the larger batch needs fewer samples; later it needs more."""


Verdict = Literal["grow", "keep", "measure"]
"""Of a batch that grows while training: worth it, not, or to be measured: not known, or where it was measured not beyond chance."""


class Evidence(Answer):
    """What a verdict stands on."""

    source: Literal["measured", "literature"]
    """measured: on these runs."""
    text: str


BRANCH = " `largebatch branch RUN` measures it."


class GrowthAdvice(Answer):
    """Whether the batch should grow while training, under one optimizer."""

    optimizer: str
    verdict: Verdict
    is_measured: bool
    """Whether the verdict is of these runs; else of the literature."""
    evidence: list[Evidence]
    """What was measured first."""
    is_recorded: bool = False
    """Whether another program trained the runs, which has to try it itself."""

    @property
    def is_unknown(self) -> bool:
        """Whether nothing was measured, and nothing is published."""
        return self.verdict == "measure" and not any(each.source == "measured" for each in self.evidence)

    @property
    def words(self) -> str:
        """For people."""
        return self.words_of(self.optimizer)

    def words_of(self, optimizers: str) -> str:
        """For people. Args: optimizers: all that it may be said of."""
        verdicts = {
            "grow": "worth it" if self.is_measured else "worth trying",
            "keep": "no" if self.is_measured else "not recommended unless measured",
            "measure": "worth trying" if self.is_measured else "not known",
        }
        grounds = {"measured": "measured on these runs", "literature": "the literature"}
        shown = [each for each in self.evidence if self.is_measured is False or each.source == "measured"]
        told = ". ".join(f"{grounds[each.source].capitalize()}: {each.text}" for each in shown)
        measure = " A run with a batch that grows, recorded beside one of equal length without, measures it." if self.is_recorded else BRANCH
        ask = "" if self.is_measured else measure
        return f"A batch that grows while training, under {optimizers}: {verdicts[self.verdict]}. {told}.{ask}"


class GrownSchedule(Answer):
    """The schedule that branches allow, as far as advice asks."""

    growth: list[tuple[float, int]]
    """(epoch, factor of the run's batch), by rising epoch."""
    places: list[int] = []
    """The same moments in samples seen."""
    num_steps: int
    num_constant_steps: int


class CriticalEnd(Answer):
    """The lower end of an interval of the critical batch at one checkpoint."""

    low: float


class BranchedPlace(Answer):
    """A checkpoint that branches say something of, as far as advice asks."""

    samples_seen: int
    critical: CriticalEnd


class BranchedRun(Answer):
    """What a run's branches came to, as `largebatch branch` left it in the run's folder."""

    run: str
    optimizer: str
    global_batch_size: int
    places: list[BranchedPlace]
    """Checkpoints that the branches say something of."""
    schedule: GrownSchedule | None
    recipe: str = ""
    """The path of the grown recipe, where there is one."""
