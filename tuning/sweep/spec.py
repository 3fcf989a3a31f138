"""SweepSpec: many runs of one recipe, each group of them searched with equal care.

Shallue et al. (arXiv:1811.03600) show that batch sizes can be compared only when the other hyper-parameters are
tuned for each of them anew. So a sweep names what is compared (`each`) and what is searched (`search.space`), and
every combination of the first gets the same search over the second.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from largebatch.jobs.errors import nearest
from largebatch.jobs.optim.by_samples.options import half_life_fields
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.alternatives import IN_TOKENS
from largebatch.jobs.spec_base import Spec
from largebatch.tuning.sweep.optimizers import OPTIMIZER, OPTIMIZER_NAME, RATE_POWER, RATE_REACH, optimizer_fields, optimizer_of, usual_rate

BATCH = "batch.global_batch_size"
BATCHES = (BATCH, IN_TOKENS[BATCH])
MOMENTUM = "optimizer.momentum"
RATE = "learning_rate.base"
HALF_LIVES = tuple(f"optimizer.{field}" for field in half_life_fields("momentum"))
"""Of the momentum, in the units of `BATCHES`."""


class RangeSpec(Spec):
    """Numbers between two ends."""

    low: float
    """The smallest."""
    high: float
    """The largest."""
    scale: Literal["log", "linear"] = "log"
    """Draw evenly in the logarithm, or in the number itself."""
    whole: bool = False
    """Whole numbers only."""
    points: Annotated[int, Field(ge=2, le=10_000)] = 5
    """grid: how many, both ends included."""
    times_batch: NonNegativeFloat = 0.0
    """Move both ends with the batch: they hold at the smallest batch of `each` and are multiplied by
    (batch / smallest) to this power; 0.5 follows the square-root rule, 1 the linear rule."""

    is_effective: bool = False
    """Learning rates: the ends are of the effective rate, learning rate / (1 - momentum), which is what Shallue et al.
    search; needs optimizer.momentum in `each`, or its half-life beside batches in the same unit."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; give a number above 0, or scale linear")
        return self

    def moved(self, factor: float, momentum: float | None = None) -> "RangeSpec":
        """The range for a batch that is `factor` times the smallest, under this momentum."""
        times = factor**self.times_batch * (1 - momentum if self.is_effective and momentum is not None else 1.0)
        return self.model_copy(update={"low": self.low * times, "high": self.high * times})

    def ends(self) -> list[float]:
        """The smallest and the largest."""
        return [round(end) if self.whole else end for end in (self.low, self.high)]

    def grid(self) -> list[float]:
        """`points` numbers, evenly spread; fewer whole numbers where some are the same."""
        values = [self.value_at(number / (self.points - 1)) for number in range(self.points)]
        return sorted(set(values)) if self.whole else values

    def value_at(self, unit: float) -> float:
        """The number at `unit` in 0 ... 1 of the range, to six digits."""
        if self.scale == "log":
            value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + unit * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.6g}")


Domain = RangeSpec | list[JsonValue]
Space = dict[str, Domain]


class SearchSpec(Spec):
    """What is searched in each group, and how."""

    method: Literal["grid", "random", "quasi_random", "tpe", "nsga2"] = "quasi_random"
    """grid: every combination; random; quasi_random: evenly spread from the middle on (Halton), as Shallue et al. search; tpe: Optuna's;
    nsga2: Optuna's, over time and accuracy at once."""
    space: dict[str, RangeSpec | list[JsonValue]] = Field(default_factory=dict)
    """Spec fields with a range or a list of values; learning_rate.base, as a rule."""
    by_optimizer: dict[str, dict[str, RangeSpec | list[JsonValue]]] = Field(default_factory=dict)
    """What is searched besides, or in another range, under one of the optimizers of `each`: its name, or its entry point, with fields like those
    of `space`."""
    trials: PositiveInt | None = None
    """Runs in each group's search; a grid has its own number."""

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        spaces = [self.space, *self.by_optimizer.values()]
        if any(isinstance(values, list) and not values for space in spaces for values in space.values()):
            raise ValueError("space holds an empty list")
        return self

    def num_trials(self, space: Space) -> int:
        """Runs in the search of a group. Args: space: what is searched there."""
        if not space:
            return 1
        whole = math.prod(len(values.grid() if isinstance(values, RangeSpec) else values) for values in space.values())
        return min(whole, self.trials or whole) if self.method == "grid" else (self.trials or 1)


class EarlyStopSpec(Spec):
    """Ending runs that fall behind others of their own group; groups never compete."""

    method: Literal["none", "asha", "median"] = "none"
    """asha: successive halving (arXiv:1810.05934); median: below the median of the others' running means."""
    clock: Literal["samples", "seconds"] = "samples"
    """What runs are compared at: samples seen, or training seconds."""
    grace: PositiveFloat = 1.0
    """Nothing is ended before: in epochs (samples) or training seconds."""
    reduction_factor: Annotated[float, Field(gt=1.0)] = 3.0
    """asha: one in so many goes on at each rung."""


class BudgetSpec(Spec):
    """What the whole sweep may use; a sweep that cannot fit is refused, one that runs out keeps what it has."""

    trials: PositiveInt | None = None
    """Runs in all."""
    seconds: PositiveFloat | None = None
    """Wall-clock seconds of work, those before a stop or a kill included; runs that are under way then stop, and none begins."""
    samples: PositiveInt | None = None
    """Training samples of all runs together; no run begins beyond it."""
    rounds_seconds: PositiveFloat | None = None
    """Wall-clock seconds of work that hold as many rounds as they do, by what runs took until then: a run more in every group's search, later a
    further seed of every group's best, or for none of them. Two runs of the search and one seed always."""


class ResourcesSpec(Spec):
    """What each run gets."""

    workers: PositiveInt = 1
    """1: the run trains in the trial's own process; more: Ray Train, each batch shared among so many."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs of each worker; also its threads."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs of each worker; a fraction lets runs of one worker share one. Default: one where there are GPUs, else none."""
    max_concurrent: PositiveInt | None = None
    """Runs at a time; default: as many as the machines hold. On shared cores runs slow each other: time to accuracy
    is honest only where each run's cores are its own."""
    max_searching: PositiveInt | None = None
    """Runs at a time while the search goes on, if more than max_concurrent: a search ranks its runs by samples, which others beside them do not
    change. The further seeds, whose seconds are reported, wait for its end."""

    @model_validator(mode="after")
    def _has_whole_gpus(self) -> Self:
        if self.workers > 1 and self.gpus_per_worker is not None and self.gpus_per_worker % 1:
            raise ValueError(f"{self.workers} workers with {self.gpus_per_worker:g} GPUs each; NCCL joins whole GPUs only")
        return self


class SweepSpec(Spec):
    """Many runs of one recipe."""

    name: str | None = None
    """Begins the sweep's folder's name; default the file's."""
    recipe: str
    """A recipe's name or file."""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of the recipe to change in every run."""
    each: dict[str, list[JsonValue]] = Field(default_factory=dict)
    """Spec fields with the values to compare; every combination is a group with a search of its own. `optimizer` compares optimizers: names,
    entry points, or mappings with their options; each is searched in its own usual range of rates where no other is given."""
    search: SearchSpec = Field(default_factory=SearchSpec)
    """The search in each group."""
    repeats: NonNegativeInt = 1
    """Further seeds of each group's best, which alone are counted in what is reported: what was chosen by a run is too favourable in it. Where
    there is nothing to choose, in groups of one run, that run is one of them. 0: only the search's own runs, which the answer then says."""
    counts_search: bool = False
    """Whether the search's own run of each group's best is one of the repeats and counts, as in sweeps of earlier versions."""
    early_stop: EarlyStopSpec = Field(default_factory=EarlyStopSpec)
    """Ending hopeless runs."""
    budget: BudgetSpec = Field(default_factory=BudgetSpec)
    """Limits of the whole."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    """Of each run."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the search's own draws."""

    @model_validator(mode="after")
    def _compares_or_searches(self) -> Self:
        spaces = [self.search.space, *self.search.by_optimizer.values()]
        searched = {name: domain for space in spaces for name, domain in space.items()}
        both = self.each.keys() & searched.keys()
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is in each and in search.space; it can be compared or searched")
        effective = [name for space in spaces for name, domain in space.items() if isinstance(domain, RangeSpec) and domain.is_effective]
        if effective and not any(fields <= self.each.keys() for fields in ({MOMENTUM}, *map(set, zip(HALF_LIVES, BATCHES, strict=True)))):
            by_half_life = f"{HALF_LIVES[0]} and {BATCHES[0]}"
            raise ValueError(f"{effective[0]} is_effective, which needs {MOMENTUM} in each, or {by_half_life}, or both in tokens")
        if len(momenta := [field for field in (MOMENTUM, *HALF_LIVES) if field in {*self.each, *searched}]) > 1:
            raise ValueError(f"{' and '.join(momenta)} say the same; give one of them")
        if any(not values for values in self.each.values()):
            raise ValueError("each holds an empty list")
        if len(batches := [field for field in BATCHES if field in {*self.each, *searched}]) > 1:
            raise ValueError(f"{' and '.join(batches)} say the same; give one of them")
        if "seed" in self.each or "seed" in searched:
            raise ValueError("seed is neither compared nor searched; repeats says how many seeds the best of each group gets")
        return self

    @model_validator(mode="after")
    def _takes_equal_care(self) -> Self:
        if OPTIMIZER in self.each and OPTIMIZER_NAME in self.each:
            raise ValueError(f"{OPTIMIZER} and {OPTIMIZER_NAME} say the same; give one of them")
        labels = self.optimizers
        if unknown := [label for label in labels if ":" not in label and label not in OPTIMIZERS]:
            raise ValueError(f"each holds {unknown[0]!r}, which is no optimizer ({nearest(unknown[0], OPTIMIZERS).rstrip('.')})")
        if strangers := [label for label in self.search.by_optimizer if label not in labels]:
            compared = f"compares {', '.join(labels)}" if labels else f"compares none; put them under each.{OPTIMIZER}"
            raise ValueError(f"search.by_optimizer has {strangers[0]}, and each {compared}")
        spaces = self.spaces
        if self.search.method != "grid" and any(spaces.values()) and self.search.trials is None:
            raise ValueError(f"method {self.search.method!r} needs trials, the number of runs in each group")
        sizes = {label: self.search.num_trials(space) for label, space in spaces.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{label} {size}" for label, size in sizes.items())
            raise ValueError(f"search gives optimizers unequal numbers of runs ({told}); give each as many points")
        return self

    @property
    def optimizers(self) -> list[str]:
        """What the optimizers are called that `each` compares; empty where it compares none."""
        fields = [*map(optimizer_fields, self.each.get(OPTIMIZER, [])), *({OPTIMIZER_NAME: name} for name in self.each.get(OPTIMIZER_NAME, []))]
        return list(dict.fromkeys(label for each in fields if (label := optimizer_of(each)) is not None))

    @property
    def spaces(self) -> dict[str | None, Space]:
        """What is searched under each optimizer of `each`, at the smallest batch; where it compares none, under None. Raises: ValueError."""
        return {optimizer: self._space_of(optimizer) for optimizer in self.optimizers} or {None: self.search.space}

    def _space_of(self, optimizer: str) -> Space:
        space = {**self.search.space, **self.search.by_optimizer.get(optimizer, {})}
        if OPTIMIZER not in self.each or RATE in space:
            return space
        batches = [batch for batch in self.each.get(BATCH, []) if isinstance(batch, int)]
        rate = usual_rate(optimizer, min(batches)) if batches else None
        if rate is None:
            why = f"no rates are known as usual for {optimizer}" if batches else f"usual ones follow {BATCH}, which each does not hold"
            raise ValueError(f"{RATE} has no range under {optimizer}: {why}; give search.by_optimizer or search.space")
        return {RATE: RangeSpec(low=rate / RATE_REACH, high=rate * RATE_REACH, times_batch=RATE_POWER), **space}

    @property
    def settled(self) -> Self:
        """The same with every optimizer's range written out: what is usual in another version changes nothing of a sweep that was begun."""
        if OPTIMIZER not in self.each:
            return self
        own = {label: {**self.search.by_optimizer.get(label, {}), **{RATE: space[RATE]}} for label, space in self.spaces.items() if label}
        return self.model_copy(update={"search": self.search.model_copy(update={"by_optimizer": own})})

    @property
    def num_trials(self) -> int:
        """Runs in each group's search."""
        return self.search.num_trials(next(iter(self.spaces.values())))

    @property
    def chooses(self) -> bool:
        """Whether each group's best is chosen by runs that are kept apart from what is reported."""
        return self.num_trials > 1 and not self.counts_search

    @property
    def num_repeated(self) -> int:
        """Runs with further seeds in each group."""
        return self.repeats if self.chooses else max(self.repeats - 1, 0)

    @property
    def num_in_group(self) -> int:
        """Runs in each group, those of its search and its repeats."""
        return self.num_trials + self.num_repeated
