"""Runs that another program logged to MLflow, as far as comparing goes: what its parameters and metrics mean is told once, in a small YAML file.

A run's curve is its metric's history. Its seconds are those of a metric that counts them, or MLflow's clock since the run began, in which evaluation,
data and everything else is; nothing is known of its noise, its device or its data.
"""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from pydantic import Field, PositiveInt

from largebatch.jobs.run.records import Headline, Outcome, RunSummary
from largebatch.jobs.spec_base import Spec
from largebatch.jobs.tasks.metric import Metric
from largebatch.tuning.results.run_result import AT_TARGET, Evaluation, RunResult

FINISHED = "FINISHED"
"""MLflow's status of a run that came to its end."""
NOT_SET = "None"
"""How MLflow writes a parameter that Python has as None."""
UNKNOWN = "a device that MLflow does not know"


class MlflowNames(Spec):
    """What the parameters and metrics of an experiment mean; those that are not named may differ between runs, and are told where they do."""

    batch: str
    """The parameter with the global batch size, over all devices and accumulated micro-batches."""
    learning_rate: str
    """The parameter with the learning rate, at its peak."""
    metric: str
    """The metric that runs are judged by."""
    better: Literal["higher", "lower"]
    """Which way the metric is better."""
    part: Literal["validation", "test"] = "validation"
    """What the metric is of."""
    counts: Literal["steps", "epochs", "epochs from 0", "samples"]
    """What MLflow's step of the metric counts: optimizer steps, epochs that are over, the number of the epoch that has just ended (the first is 0),
    or samples."""
    train_samples: PositiveInt | str
    """Training samples in an epoch, or the parameter that says them."""
    seconds: str | None = None
    """The metric that counts training seconds, logged with the same steps; None: MLflow's clock since the run began."""
    optimizer: str | None = None
    """The parameter with the optimizer's name; None: the same for all."""
    momentum: str | None = None
    """The parameter with momentum or beta1."""
    seed: str | None = None
    """The parameter with the seed."""
    model: str | None = None
    """The parameter with the model's name; runs of different models are not compared."""
    dataset: str | None = None
    """The parameter with the data set's name; runs of different data sets are not compared."""
    target: float | None = None
    """The score to reach, unless --target says another."""
    ignore: tuple[str, ...] = Field(default=(), strict=False)
    """Parameters that change nothing, such as folders."""

    @property
    def parameters(self) -> set[str]:
        """Those that have a meaning, or none at all."""
        told = (self.batch, self.learning_rate, self.optimizer, self.momentum, self.seed, self.model, self.dataset, self.train_samples, *self.ignore)
        return {name for name in told if isinstance(name, str)}


class ForeignRuns(NamedTuple):
    """What there is to give a meaning to."""

    experiment: str
    parameters: list[str]
    metrics: list[str]
    has_ours: bool
    """Whether the experiment also holds runs of largebatch."""


AskNames = Callable[[ForeignRuns], MlflowNames | None]
"""Asked what names mean; None: nobody says so, and the runs are left out."""


def foreign_runs(experiment: str, runs: Iterable[Any], *, has_ours: bool) -> ForeignRuns:
    """The names that MLflow's runs have between them."""
    runs = list(runs)
    parameters, metrics = ({name for run in runs for name in getattr(run.data, kind)} for kind in ("params", "metrics"))
    return ForeignRuns(experiment, sorted(parameters), sorted(metrics), has_ours)


def read_foreign(client: Any, runs: Iterable[Any], names: MlflowNames, experiment: str) -> tuple[list[RunResult], list[str]]:
    """The results of the runs that have ended, and a sentence on those that are left out."""
    read, left_out = list[RunResult](), dict[str, int]()
    for run in runs:
        result = _read(client, run, names, experiment) if run.info.status == FINISHED else "did not come to their end"
        if isinstance(result, str):
            left_out[result] = left_out.get(result, 0) + 1
        else:
            read.append(result)
    return read, [f"Left out: {number} run{'s' if number > 1 else ''} that {why}." for why, number in left_out.items()]


def _read(client: Any, run: Any, names: MlflowNames, experiment: str) -> RunResult | str:
    """A run's result, or why there is none."""
    params = run.data.params
    try:
        batch, rate = _whole(params[names.batch]), float(params[names.learning_rate])
        per_epoch = _whole(params[names.train_samples]) if isinstance(names.train_samples, str) else names.train_samples
        seed = 0 if params.get(names.seed, NOT_SET) == NOT_SET else _whole(params[names.seed])
    except KeyError as missing:
        return f"have no parameter {missing.args[0]}"
    except ValueError as error:
        return f"say what is no number: {error}"
    if batch < 1 or per_epoch < 1:
        return f"have a {names.batch if batch < 1 else names.train_samples} below 1"
    if not 0 < rate < math.inf:
        return f"have a {names.learning_rate} of {rate:g}"
    read = _curve(client, run, names, batch, per_epoch)
    if isinstance(read, str):
        return read
    curve, diverges = read
    metric = Metric(names.metric, names.better)
    fields: dict[str, Any] = {
        "name": run.info.run_name or run.info.run_id,
        "recorded.trainer": "mlflow",
        AT_TARGET: False,  # the target was told afterwards
        "seed": seed,
        "dataset.name": params.get(names.dataset, experiment),
        "model.name": params.get(names.model, f"the model of {experiment}"),
        "optimizer.name": params.get(names.optimizer, "its optimizer"),
        "optimizer.momentum": _number(params.get(names.momentum)),
        "batch.global_batch_size": batch,
        "learning_rate.base": rate,
        **{f"settings.{name}": value for name, value in params.items() if name not in names.parameters},
    }
    summary = _summary(fields["name"], run.info.run_id, names, metric, batch, per_epoch, curve, diverges)
    return RunResult.of(fields, summary, curve, UNKNOWN, rate)


def _whole(text: str) -> int:
    """A whole number, also one that is written as 64.0. Raises: ValueError."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text} is not whole")
    return int(number)


def _is_finite(value: float) -> bool:
    """MLflow's databases keep the largest float in the place of an infinite one."""
    return math.isfinite(value) and abs(value) < sys.float_info.max


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _curve(client: Any, run: Any, names: MlflowNames, batch: int, per_epoch: int) -> tuple[tuple[Evaluation, ...], bool] | str:
    """A run's evaluations up to the first that is no finite number, and whether there is one; or why there are none."""
    history, clock = _history(client, run, names.metric), _history(client, run, names.seconds) if names.seconds is not None else []
    if not history:
        return f"have no {names.metric}"
    if len(history) > 1 and history[0].step == history[-1].step:
        return f"log {names.metric} several times at step {history[0].step} and at no other (log_metric has a step)"
    seconds = {at.step: at.value for at in clock if _is_finite(at.value)}
    per_count = {"steps": batch, "samples": 1}.get(names.counts, per_epoch)
    evaluations, diverges = dict[int, Evaluation](), False
    for at in history:
        if not _is_finite(at.value):
            diverges = True
            break
        samples = max(0, (at.step + (names.counts == "epochs from 0")) * per_count)
        elapsed = (at.timestamp - run.info.start_time) / 1000 if names.seconds is None else seconds.get(at.step, None if samples else 0.0)
        if elapsed is None:
            return f"log {names.metric} at steps such as {at.step}, where they log no {names.seconds}"
        evaluations[at.step] = Evaluation(math.ceil(samples / batch), samples, elapsed, at.value)
    curve = tuple(evaluations.values())
    if not curve:
        return f"have no finite {names.metric}"
    return (curve, diverges) if curve[-1].samples or diverges else f"log {names.metric} before the first step alone"


def _history(client: Any, run: Any, metric: str) -> list[Any]:
    """What was logged, by step; of one step the last is the one that holds."""
    return sorted(client.get_metric_history(run.info.run_id, metric), key=lambda at: (at.step, at.timestamp))


def _summary(
    name: str, run_id: str, names: MlflowNames, metric: Metric, batch: int, per_epoch: int, curve: tuple[Evaluation, ...], diverges: bool
) -> RunSummary:
    """What a run of ours would have written at its end, as far as it is known."""
    last = curve[-1]
    met = None if names.target is None else next((at for at in curve if metric.meets(at.score, names.target)), None)
    ended = Outcome.COMPLETED if names.target is None else Outcome.MISSED if met is None else Outcome.REACHED
    return RunSummary(
        run_id=name, outcome=Outcome.DIVERGED if diverges else ended, global_batch_size=batch, micro_batch_size=batch, gradient_accumulation_steps=1,
        world_size=1, steps=last.step, epochs=last.samples / per_epoch, samples_seen=last.samples,
        training_seconds=last.training_seconds, evaluation_seconds=0.0, wall_seconds=last.training_seconds,
        samples_per_second=last.samples / last.training_seconds if last.training_seconds > 0 else None,
        headline=Headline.of(metric), target=names.target,
        time_to_target_seconds=None if met is None else met.training_seconds, steps_to_target=None if met is None else met.step,
        score=last.score, best_score=metric.best([at.score for at in curve]), train_score=None, evaluated_on=names.part, gradient_noise_scale=None,
        parameters_sha256=None, run_dir="", mlflow_run_id=run_id,
    )  # fmt: skip
