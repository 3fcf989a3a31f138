"""Time to accuracy at every batch size before any of them was tried: one run, its noise scale, and a profile.

The run's crossing and its noise give the samples to its target at any batch (`reference.py`); a profile
of step times turns samples E(B) into seconds, an epoch's short last step among them, at the pace of that run: its own
seconds beside the profile's at its own batch, for a short run's steps are slower than a profile's. What it leaves out:
batches that need other momentum or decay, tuned learning rates, and what generalisation loses; so it is a first
answer, and a sweep's report says how far it was off.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.tuning.results.analysis.reference import curve_through
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import Setting
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.unit import SAMPLES, Unit, in_digits

NEAR = 0.3
"""How far off a time may be and still counts as predicted."""


class Predicted(NamedTuple):
    """What a run at one batch size is expected to cost up to the target."""

    global_batch_size: int
    seconds: float
    samples: float
    steps: float
    learning_rate: float
    """By the optimizer's rule, up to the critical batch; beyond it no more."""
    is_reference: bool = False
    """The batch of the run that the prediction is made from, where it is that run's own time."""


def predict(run: RunResult, profile: Profile, target: float, batches: Sequence[int], interval: float | None = None) -> list[Predicted]:
    """The whole curve, by rising batch.

    Args:
        run: reached the target and measured its noise.
        profile: of the same model on the device to be used.
        interval: samples between the evaluations of the runs that are predicted; None: as between the run's own.
    Raises: InputError for a run that did neither.
    """
    curve = curve_through(run, target)
    if interval is not None:
        curve = curve._replace(met=curve.met._replace(interval=round(interval)))
    reference_batch, most = curve.reference_batch, curve.critical_batch
    drops = run.values_of(["batch.last"]).get("batch.last") == "drop"
    pace = curve.met.at.training_seconds / (curve.met.at.samples * profile.seconds_per_sample(reference_batch, drops=drops))
    power = OPTIMIZERS[run.optimizer].batch_power if run.optimizer in OPTIMIZERS else 0.5
    predicted = []
    for batch in sorted(batches):
        samples = curve.samples(batch)
        steps = max(samples / batch, 1.0)
        seconds = steps * batch * profile.seconds_per_sample(batch, drops=drops) * pace
        rate = run.learning_rate * (min(batch, most) / min(reference_batch, most)) ** power
        predicted.append(Predicted(batch, seconds, samples, steps, rate, batch == reference_batch))
    return predicted


def profile_beside_runs(profile: Profile, runs: Setting, optimizers: Collection[str]) -> str:
    """What must be said where a profile is not of the runs' own model arguments, data, device and workers; empty where it is.

    Args: optimizers: of the runs that it is held beside, as answers call them.
    Raises: InputError for another model or optimizer, whose step times say nothing of these runs.
    """
    if profile.optimizer is not None and profile.optimizer not in optimizers:
        named = " or ".join(optimizers)
        hint = f"Profile the recipe with {named}; a study keeps profile-OPTIMIZER.json of those beside its recipe's own."
        raise InputError("--profile", f"was measured with {profile.optimizer}, and the runs that it is for trained with {named}.", hint)
    model, dataset = profile.model_in_words or runs.model, profile.dataset_in_words or runs.dataset
    if _plain(model) != _plain(runs.model):
        raise InputError("--profile", f"was measured with {model}, and the runs trained {runs.model}.", "Profile the runs' own recipe.")
    profiled = runs.model_copy(update={"dataset": dataset, "model": model, "device": profile.device, "world_size": 1})
    said = [] if profiled == runs else [f"The profile is of {profiled}, the runs are of {runs}: their step times need not be the same."]
    if profile.optimizer is None:
        said.append(f"The profile does not say which optimizer's steps it timed, and the runs trained with {' and '.join(optimizers)}.")
    return " ".join(said)


def refuse_other_reference(reference: RunResult, runs: Setting) -> None:
    """Raises: InputError where a prediction was made from a run on other data, model, device or workers than those it is held against."""
    setting = reference.setting
    if setting != runs.model_copy(update={"model": _plain(runs.model)}):
        problem = f"{reference.summary.run_id} is of {setting}, and the runs are of {runs}: what it predicts cannot be held against these."
        raise InputError("--reference", problem, "Give a run of the same model on the same data and device.")


def _plain(model: str) -> str:
    """Without arguments."""
    return model.split(" (")[0]


class Miss(NamedTuple):
    """How far a prediction was off at one batch."""

    global_batch_size: int
    predicted_s: float
    measured_s: float
    is_reference: bool = False
    """The batch of the run that the prediction was made from: no prediction, and not counted as one."""

    @property
    def error(self) -> float:
        """Relative: 0.3 is thirty per cent too high."""
        return self.predicted_s / self.measured_s - 1

    def row(self, unit: Unit = SAMPLES) -> dict[str, str]:
        """A line of a table."""
        return {
            "batch": unit.batch(self.global_batch_size) + (" (the reference run's own)" if self.is_reference else ""),
            "predicted s": in_digits(self.predicted_s, 3),
            "measured s": in_digits(self.measured_s, 3),
            "off by": f"{self.error:+.0%}",
        }


def compare(predicted: Sequence[Predicted], measured: dict[int, float]) -> list[Miss]:
    """The batches that were both predicted and measured."""
    return [
        Miss(batch, prediction.seconds, measured[batch], prediction.is_reference)
        for prediction in predicted
        if (batch := prediction.global_batch_size) in measured
    ]


def misses_in_words(misses: Sequence[Miss]) -> str:
    """How good a prediction was, for a person; the reference run's own batch does not count."""
    others = [miss for miss in misses if not miss.is_reference]
    if not others:
        return "How good the prediction before the sweep was cannot be said: no batch size but the reference run's own was predicted and reached."
    near = sum(abs(miss.error) <= NEAR for miss in others)
    beside = " (the reference run's own left aside)" if len(others) < len(misses) else ""
    return (
        f"Before the sweep, one run and the profile predicted the time to the target within {NEAR * 100:g} % at {near} of {len(others)} "
        f"batch sizes{beside}."
    )
