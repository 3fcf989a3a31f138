"""One run as far as comparing goes: its summary, its curve, and the fields that make its configuration.

What may be put on the same axes are runs of one setting; they may differ in other fields all the same.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from largebatch.jobs.optim.by_samples.options import decay_of, half_life_fields
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.spec.alternatives import DECAYS, IN_TOKENS
from largebatch.jobs.spec.schedules import PlaceSpec
from largebatch.jobs.tasks.metric import Metric
from largebatch.jobs.tasks.registry import scores_are_of
from largebatch.tuning.results.answers import Setting

ASIDE = (
    "seed", "name", "description", "tracking.", "checkpoint.", "dataset.download", "dataset.num_workers", "dataset.may_change",
    "batch.micro_batch_size", "stop.target", "stop.at_target", "stop.max_seconds", "stop.patience",
)  # fmt: skip
"""Fields that may differ between two runs of one configuration: they change no step's mathematics. `stop.epochs` and `stop.steps` do: they
are the horizon of the learning rate's decay."""
COMPARED = frozenset(
    {
        *IN_TOKENS, *IN_TOKENS.values(), "learning_rate.base", "learning_rate.scaling",
        "optimizer.name", "optimizer.entry_point",
        *(field for alternatives in DECAYS for field in alternatives if not field.startswith("optimizer.other.")),
    }
)  # fmt: skip
"""Fields that an answer is about; any other that differs between runs on one axis is named."""
AT_TARGET = "stop.at_target"
GROWTH = "batch.schedule.growth"
GROWS = (GROWTH, "batch.schedule.doubling", "batch.schedule.follows_rate")
"""Beginnings of the fields by which a batch grows, for good."""
CHANGES_BATCH = tuple(f"batch.schedule.{way}" for way in ("growth", "doubling", "follows_rate", "warmup"))
"""Beginnings of the fields by which a batch changes while training."""
MOST_NAMED, LONGEST = 4, 60


class Evaluation(NamedTuple):
    """One point of a run's curve."""

    step: int
    samples: int
    training_seconds: float
    score: float
    """The headline metric."""
    evaluation_seconds: float | None = None
    """Of this evaluation and those before it; None of a run from MLflow."""


class NoiseEstimate(NamedTuple):
    """What one step measured of its gradient's noise."""

    step: int
    covariance_trace: float
    """tr(Sigma), unbiased."""
    gradient_norm_squared: float
    """|G|^2, unbiased; can be negative."""


@dataclass(frozen=True)
class RunResult:
    """The tidy table's row of one run."""

    name: str
    summary: RunSummary
    evaluations: tuple[Evaluation, ...]
    dataset: str
    """Name or entry point, with its arguments."""
    model: str
    """Name or entry point alone: arguments may be what a sweep searches, and stay on one axis."""
    optimizer: str
    """Its name; of a person's own its entry point."""
    momentum: float | None
    """The value of the optimizer's `momentum_option`; what its half-life comes to at the run's batch, where that says it."""
    learning_rate: float
    """At the peak of the schedule."""
    seed: int
    device: str
    settings: tuple[tuple[str, str], ...]
    """Every field of the spec that changes the mathematics, but the seed."""
    folder: Path | None = None
    """Where it was read from; None: from MLflow."""
    noise_estimates: tuple[NoiseEstimate, ...] = ()
    """Of every step that measured them, by rising step; none of a run from MLflow, where they are not kept together."""
    momentum_half_life_samples: float | None = None
    """The half-life that says the momentum, in samples; None where a number does."""
    ends_at_target: bool = False
    """Whether it was to end at the target that it was given, with its budget unspent."""
    chose: bool = False
    """Whether a sweep chose by it, so that it is kept apart from what is reported of the settings that were chosen."""

    @classmethod
    def of(
        cls,
        fields: Mapping[str, Any],
        summary: RunSummary,
        evaluations: tuple[Evaluation, ...],
        device: str,
        peak_learning_rate: float | None,
        folder: Path | None = None,
        noise_estimates: tuple[NoiseEstimate, ...] = (),
    ) -> "RunResult":
        """The row of a run. Args: fields: of its spec, flat; peak_learning_rate: None where it was not kept."""
        half_life = _momentum_half_life(fields, summary)
        momentum = fields.get("optimizer.momentum")
        if momentum is None:
            momentum = fields.get("optimizer.beta1") if half_life is None else decay_of(half_life, summary.global_batch_size)
        fields = {**fields, GROWTH: growth_in_words(fields.get(GROWTH), summary.global_batch_size)}
        compared = {name: str(value) for name, value in fields.items() if not name.startswith(ASIDE) and value not in (None, {}, [])}
        return cls(
            name=str(fields["name"]),
            summary=summary,
            evaluations=evaluations,
            dataset=part_in_words(fields, "dataset"),
            model=_plain_name(fields, "model"),
            optimizer=str(fields.get("optimizer.entry_point") or fields["optimizer.name"]),
            momentum=None if momentum is None else float(momentum),
            learning_rate=float(fields["learning_rate.base"]) if peak_learning_rate is None else peak_learning_rate,
            seed=int(fields["seed"]),
            device=device,
            settings=tuple(sorted(compared.items())),
            folder=folder,
            noise_estimates=noise_estimates,
            momentum_half_life_samples=half_life,
            ends_at_target=str(fields.get(AT_TARGET, True)) == "True" and not _budget_is_spent(fields, summary),
        )

    @property
    def setting(self) -> Setting:
        """Its setting, the model without arguments."""
        return Setting(dataset=self.dataset, model=self.model, device=self.device, world_size=self.summary.world_size, metric=self.metric.name,
                       task=self.task, evaluated_on=self.summary.evaluated_on)  # fmt: skip

    @property
    def task(self) -> str:
        """What its scores are of, beside their metric's name; empty for classification."""
        return scores_are_of(dict(self.settings), self.metric.name)

    @property
    def metric(self) -> Metric:
        """What it is judged by."""
        return self.summary.headline.metric

    @property
    def is_recorded(self) -> bool:
        """Whether another program's loop trained it."""
        return any(name.startswith("recorded") for name, _ in self.settings)

    @property
    def batch_schedule(self) -> tuple[tuple[str, str], ...]:
        """How its batch changes while training; empty where it does not."""
        return tuple(each for each in self.settings if each[0].startswith(CHANGES_BATCH))

    @property
    def grows(self) -> bool:
        """Whether its batch grows while training, so that `global_batch_size` is that of its beginning alone."""
        return any(name.startswith(GROWS) for name, _ in self.settings)

    def momentum_at(self, global_batch_size: int) -> float | None:
        """Its momentum at another batch."""
        half_life = self.momentum_half_life_samples
        return self.momentum if half_life is None else decay_of(half_life, global_batch_size)

    def values_of(self, names: Iterable[str]) -> dict[str, str]:
        """The fields of these names that its spec has, by name."""
        settings = dict(self.settings)
        return {name: settings[name] for name in names if name in settings}

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """(training seconds, score) at every evaluation."""
        return tuple((point.training_seconds, point.score) for point in self.evaluations)

    def first_at(self, target: float) -> Evaluation | None:
        """The first evaluation that met `target`: what it cost; None on a miss."""
        return next((point for point in self.evaluations if self.metric.meets(point.score, target)), None)

    def ended_short_of(self, target: float) -> bool:
        """Whether it ended at its own target, before it came to `target`: when it would have, if at all, is not known."""
        own = self.summary.target
        if not self.ends_at_target or own is None or self.summary.outcome is not Outcome.REACHED or self.first_at(target) is not None:
            return False
        return self.first_at(own) == self.evaluations[-1]


def evaluated_on(results: Iterable[RunResult]) -> str:
    """The name of the part of the data that runs were evaluated on while training, for a title: "test", "validation", or both."""
    return " or ".join(dict.fromkeys(result.summary.evaluated_on for result in results)) or "test"


def part_in_words(fields: Mapping[str, Any], part: str) -> str:
    """A spec's data set or model: `digits`, or `mlp (depth 2, width 512)`. Args: fields: flat; part: "dataset" or "model"."""
    return _with_arguments(_plain_name(fields, part), _arguments_of(fields, part))


def growth_in_words(growth: Any, global_batch_size: int) -> Any:
    """`16 growing to 32 at epoch 1, 64 at epoch 2`: milestones as a spec has them, or MLflow as text; what cannot be read stays as it is."""
    try:
        milestones = ast.literal_eval(growth) if isinstance(growth, str) else growth
        return f"{global_batch_size:,} growing to {', '.join(_milestone(each, global_batch_size) for each in milestones)}" if milestones else None
    except (ValueError, SyntaxError, TypeError, KeyError, StopIteration):
        return growth


def _milestone(fields: Mapping[str, Any], global_batch_size: int) -> str:
    unit, place = next((unit, fields[unit]) for unit in PlaceSpec.model_fields if fields.get(unit) is not None)
    where = {"epoch": f"at epoch {place:g}", "fraction": f"at {place:g} of the run"}.get(unit, f"after {place:,} {unit}")
    return f"{global_batch_size * fields['factor']:,.7g} {where}"


def _budget_is_spent(fields: Mapping[str, Any], summary: RunSummary) -> bool:
    """Whether a run has done all that it was to do."""
    budgets = (("stop.epochs", summary.epochs), ("stop.steps", summary.steps))
    return any(done >= float(fields[name]) - 1e-9 for name, done in budgets if fields.get(name) is not None)


def _momentum_half_life(fields: Mapping[str, Any], summary: RunSummary) -> float | None:
    """In samples; None where no half-life says the momentum."""
    for in_samples, in_tokens in map(half_life_fields, ("momentum", "beta1")):
        if (samples := fields.get(f"optimizer.{in_samples}")) is not None:
            return float(samples)
        if (tokens := fields.get(f"optimizer.{in_tokens}")) is not None and summary.tokens_per_sample:
            return float(tokens) / summary.tokens_per_sample
    return None


def _plain_name(fields: Mapping[str, Any], part: str) -> str:
    """Name or entry point, without arguments."""
    return str(fields.get(f"{part}.name") or fields.get(f"{part}.entry_point"))


def _arguments_of(fields: Mapping[str, Any], part: str) -> dict[str, str]:
    """Keyword arguments, in the order of their names."""
    begin = f"{part}.arguments."
    arguments = {name.removeprefix(begin): str(value) for name, value in fields.items() if name.startswith(begin) and value not in (None, {}, [])}
    if part == "dataset" and fields.get("dataset.validation") is not None:
        arguments["validation"] = str(fields["dataset.validation"])
    return dict(sorted(arguments.items()))


def _with_arguments(name: str, arguments: Mapping[str, str]) -> str:
    """`mlp (width 512)`; the name alone where there are no arguments."""
    return f"{name} ({', '.join(f'{key} {value}' for key, value in arguments.items())})" if arguments else name


def settings_of(runs: Iterable[RunResult]) -> dict[Setting, list[RunResult]]:
    """The runs by what may not be mixed, the largest number first. A model's arguments may be: `differences_in_words` names them."""
    by_setting: dict[Setting, list[RunResult]] = {}
    for run in runs:
        by_setting.setdefault(run.setting, []).append(run)
    ordered = sorted(by_setting.items(), key=lambda item: -len(item[1]))
    named = {}
    for setting, members in ordered:  # the model of all of them, with the arguments that they share
        shared = set.intersection(*(set(_arguments_of(dict(settings), "model").items()) for settings in {run.settings for run in members}))
        named[setting.model_copy(update={"model": _with_arguments(setting.model, dict(sorted(shared)))})] = members
    return named


def differences(runs: Iterable[RunResult]) -> dict[str, list[str]]:
    """The fields in which runs on one axis differ, beside those that are compared, each with its values.

    An optimizer's options are held against those of the same optimizer alone: another one has others.
    """
    distinct = {run.settings: run.optimizer for run in runs}
    values: dict[str, dict[str, set[str]]] = {}
    for settings, optimizer in distinct.items():
        for name, value in settings:
            if name not in COMPARED:
                values.setdefault(name, {}).setdefault(optimizer if name.startswith("optimizer.") else "", set()).add(value)
    for name, by_optimizer in values.items():
        if not name.startswith("optimizer.") and any(name not in dict(settings) for settings in distinct):
            by_optimizer[""].add("not set")
    return {
        name: sorted(set().union(*by_optimizer.values()), key=_in_order)
        for name, by_optimizer in sorted(values.items())
        if any(len(different) > 1 for different in by_optimizer.values())
    }


def what_differs(runs: Sequence[RunResult]) -> list[dict[str, str]]:
    """Of each run its values of what the runs differ in beside batch and optimizer: rate, momentum, seed, target, and other fields by their names."""
    others = [*differences(runs)]
    told = [
        {
            "learning rate": f"{run.learning_rate:.4g}",
            "momentum": "-" if run.momentum is None else f"{run.momentum:.4g}",
            "seed": str(run.seed),
            "target": "-" if run.summary.target is None else f"{run.summary.target:g}",
            **{name: run.values_of([name]).get(name, "-") for name in others},
        }
        for run in runs
    ]
    differing = [name for name in told[0] if len({each[name] for each in told}) > 1]
    return [{name: each[name] for name in differing} for each in told]


def differences_in_words(runs: Sequence[RunResult]) -> str:
    """The same for a person, a few of them: `model.arguments.width (64, 128) and stop.epochs (10, 20)`; empty for none."""
    parts = [f"{name} ({_some(values)})" for name, values in differences(runs).items()]
    if len(parts) > MOST_NAMED:
        parts = [*parts[:MOST_NAMED], f"{len(parts) - MOST_NAMED} more"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _in_order(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _some(values: Sequence[str]) -> str:
    shown = [value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..." for value in values]
    return ", ".join(shown if len(shown) <= MOST_NAMED else [*shown[: MOST_NAMED - 1], "...", shown[-1]])
