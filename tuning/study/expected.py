"""What the runs of a study may be expected to take, before any of them is begun."""

from collections.abc import Sequence

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.reference import Curve, Reference
from largebatch.tuning.results.analysis.step_time import Profile

SOLUTIONS_SHARE = 0.25
"""Of a study's budget, for the runs to the end, at most; what does not fit is left out."""
OVERHEAD_PER_RUN_S = 0.7
"""Of each run beside its training and evaluation, for data, checkpoint and journal: twice the 0.35 s that the runs of F1 took in the study of
docs/results."""
UNTUNED = 1.6
"""How many more samples than predicted the runs of a search take, those that miss included: between the 1.3 of F1 on MNIST and the 2.3 of the
digits in the studies of docs/results."""


class Expected:
    """Seconds of runs, by the study's profile and the recipe's own run. Args: reference: the recipe as it is."""

    def __init__(self, spec: TrainSpec, profile: Profile, reference: Reference) -> None:
        summary = reference.run.summary
        self._profile = profile
        self.epochs = float(spec.stop.epochs or summary.samples_seen / profile.num_train_samples)
        self._curve = _curve(spec, reference) if spec.stop.at_target else None
        # As fast, and as often interrupted by evaluations, as the run that has just been done beside whatever else there is.
        profiled_s = profile.seconds_per_step(summary.global_batch_size)
        self._pace = summary.training_seconds / (summary.steps * profiled_s) if summary.steps else 1.0
        self._evaluation_s = summary.evaluation_seconds / summary.samples_seen if summary.samples_seen else 0.0

    def _seconds(self, batch: int, samples: float) -> float:
        return samples * (self._pace * self._profile.seconds_per_step(batch) / batch + self._evaluation_s) + OVERHEAD_PER_RUN_S

    def to_the_end(self, batch: int) -> float:
        """Wall-clock seconds of a run through all epochs."""
        return self._seconds(batch, self.epochs * self._profile.num_train_samples)

    def of_a_search(self, batch: int) -> float:
        """Wall-clock seconds of a run to the target, with a rate that is not yet tuned, or to its end."""
        samples = self.epochs * self._profile.num_train_samples
        return self._seconds(batch, samples if self._curve is None else min(samples, UNTUNED * self._curve.samples(batch)))

    def chosen_for_the_end(self, batches: Sequence[int], budget_s: float) -> list[int]:
        """The batches whose best settings the study trains to the end: all, or the first and the last, or none, as they fit."""
        choices = [[*batches], [batches[0], batches[-1]]]
        return next((chosen for chosen in choices if sum(map(self.to_the_end, chosen)) <= SOLUTIONS_SHARE * budget_s), [])


def _curve(spec: TrainSpec, reference: Reference) -> Curve | None:
    try:
        return reference.curve(spec.stop.target_accuracy or 1.0)
    except InputError:  # it did not reach its target: what it takes is not known, and runs are expected to last to their end
        return None
