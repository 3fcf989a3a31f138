"""From a SweepSpec to runs: the groups to compare, the search in each, and each run's TrainSpec."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.by_samples.options import decay_of
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.plan.make import Facts, TrainingSet, make_plan
from largebatch.jobs.spec.mistakes import first_mistake
from largebatch.jobs.spec.read import RECIPES_DIR, build_spec, read_spec, set_fields
from largebatch.jobs.spec.text import read_document
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.in_short import in_short
from largebatch.tuning.sweep.optimizers import OPTIMIZER, optimizer_fields, optimizer_of
from largebatch.tuning.sweep.spec import BATCHES, HALF_LIVES, MOMENTUM, RangeSpec, Space, SweepSpec


class SweepGroup(NamedTuple):
    """A sweep group: one combination of what is compared, with its search."""

    number: int
    fields: dict[str, Any]
    """The values of `each`, an optimizer's as its fields."""
    space: Space
    """What is searched, ranges moved to this group's batch."""


def group_name(group: SweepGroup) -> str:
    """What is compared in a group, in short: `batch 512, momentum 0.9`, or `optimizer lamb, batch 512`."""
    return in_short(group.fields) or "all"


def sweep_paths() -> dict[str, Path]:
    """The sweeps that come with this package, by name."""
    return {path.stem: path for path in sorted((RECIPES_DIR / "sweeps").glob("*.yaml"))}


def find_sweep(sweep: str) -> Path:
    """A sweep's file, from its path or the name of one that comes with this package. Raises: SpecError."""
    if Path(sweep).is_file():
        return Path(sweep)
    known = sweep_paths()
    if sweep not in known:
        raise SpecError("SWEEP", f"{sweep!r} is neither a file nor a sweep.", nearest(sweep, known))
    return known[sweep]


def sweep_spec(document: Any) -> SweepSpec:
    """A sweep from a document. Raises: SpecError."""
    try:
        return SweepSpec.model_validate(document)
    except pydantic.ValidationError as error:
        raise first_mistake(error, SweepSpec) from None


def read_sweep(path: Path) -> SweepSpec:
    """A sweep from a YAML or JSON file. Raises: SpecError."""
    sweep = sweep_spec(read_document(path))
    return sweep if sweep.name is not None else sweep.model_copy(update={"name": path.stem})


def base_spec(sweep: SweepSpec, folder: Path = Path()) -> TrainSpec:
    """The recipe with the sweep's own changes; a recipe's file is looked for beside the sweep's. Raises: SpecError."""
    beside = folder / sweep.recipe
    return with_fields(read_spec(str(beside) if beside.is_file() else sweep.recipe), sweep.set)


def with_fields(spec: TrainSpec, fields: Mapping[str, Any]) -> TrainSpec:
    """The spec with dotted fields replaced. Raises: SpecError for unknown ones, or values that cannot be."""
    document = spec.model_dump(mode="json")
    if fields.get("optimizer.name", spec.optimizer.name) != spec.optimizer.name:  # the options of another optimizer mean nothing to this one
        document["optimizer"] = {name: value for name, value in document["optimizer"].items() if name in OptimizerConfig.model_fields}
    set_fields(document, fields)
    return build_spec(document)


def groups(sweep: SweepSpec) -> list[SweepGroup]:
    """Every combination of `each`, in its order; later fields change fastest. Raises: SpecError."""
    batch_field = next((field for field in BATCHES if field in sweep.each), BATCHES[0])
    batches = sweep.each.get(batch_field, [])
    smallest = min((batch for batch in batches if isinstance(batch, int)), default=None)
    spaces = sweep.spaces
    moving = [name for space in spaces.values() for name, domain in space.items() if isinstance(domain, RangeSpec) and domain.times_batch]
    if moving and "full" in batches:
        raise SpecError(f"each.{batch_field}", f"holds `full`, and {moving[0]} moves with the batch.", "Give the number of training samples.")
    combinations = []
    for number, values in enumerate(itertools.product(*sweep.each.values())):
        fields: dict[str, Any] = {}
        for name, value in zip(sweep.each, values, strict=True):
            fields |= optimizer_fields(value) if name == OPTIMIZER else {name: value}
        batch = fields.get(batch_field)
        factor = batch / smallest if smallest and isinstance(batch, int) else 1.0
        momentum = _momentum_in(fields)
        searched = spaces[optimizer_of(fields) if sweep.optimizers else None]
        space = {name: domain.moved(factor, momentum) if isinstance(domain, RangeSpec) else domain for name, domain in searched.items()}
        combinations.append(SweepGroup(number, fields, space))
    return combinations


def _momentum_in(fields: Mapping[str, Any]) -> float | None:
    """The momentum that a combination of values comes to; None where it says none. Raises: SpecError for a half-life beside a batch of no number."""
    if MOMENTUM in fields:
        return float(fields[MOMENTUM])
    for half_life, batch in zip(HALF_LIVES, BATCHES, strict=True):
        if half_life in fields and batch in fields:
            if fields[batch] == "full":
                raise SpecError(
                    f"each.{batch}", f"holds `full`, and {half_life} says a momentum by the batch.", "Give the number of training samples."
                )
            return decay_of(float(fields[half_life]), float(fields[batch]))
    return None


def count_runs(sweep: SweepSpec) -> int:
    """How many runs the sweep has."""
    return len(groups(sweep)) * sweep.num_in_group


def refuse_impossible(sweep: SweepSpec, base: TrainSpec, training_set: TrainingSet | None = None) -> int:
    """Refuse a sweep that cannot be run. Returns how many runs it has.

    Args: training_set: to make each run's plan with; None: not known.
    Raises: SpecError for a combination that is no spec, PlanError for one that cannot be kept, such as a batch above the training set,
        SpecError for a budget that cannot hold all runs.
    """
    sweep_groups = groups(sweep)
    for group in sweep_groups:
        # Values that show whether the space fits the spec: both ends of ranges, every value of lists, one field at a time.
        ends = {name: domain.ends() if isinstance(domain, RangeSpec) else domain for name, domain in group.space.items()}
        first = {name: values[0] for name, values in ends.items()}
        for corner in [first | {name: value} for name, values in ends.items() for value in values] or [{}]:
            spec = with_fields(base, group.fields | corner)
            if training_set is not None:  # of any model: what only this one cannot do, its runs say
                make_plan(
                    spec, Facts(training_set.num_samples, has_batch_norm=False, micro_batch_size=1, tokens_per_sample=training_set.tokens_per_sample)
                )
    searched, repeated, total = sweep.num_trials, sweep.num_repeated, count_runs(sweep)
    if sweep.budget.trials is not None and sweep.budget.trials < total:
        raise SpecError(
            "budget.trials",
            f"{sweep.budget.trials} runs, and {len(sweep_groups)} groups with {searched} searched and {repeated} repeated runs each are {total}.",
            f"Allow {total}, compare fewer values, or search and repeat less.",
        )
    return total
