"""What the runs of a study may be expected to take, by its profiles and the recipe's own run; and which batch sizes may be compared."""

import contextlib
from collections.abc import Sequence

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.crossing import crossing
from largebatch.tuning.results.analysis.reference import Curve, curve_through
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import RunResult

SOLUTIONS_SHARE = 0.25
"""Of a study's budget, for the runs to the end, at most; what does not fit is left out."""
BESIDE_RUN_S = 0.15
"""Of each run, for its process and what is told of it, beside what the recipe's own run took for data, checkpoint and journal."""
UNTUNED = 1.6
"""How many more samples than predicted the runs of a search take, those that miss included: between the 1.3 of F1 on MNIST and the 2.3 of the
digits in the studies of docs/results."""
AFTER_S = 6.0
"""Of a study once, whatever its budget: drawing the report, and MLflow, until it has everything."""
COARSE, FINE = 4, 2
"""How many times batch sizes lie apart."""
SPACING, EVALUATION_SHARE = 0.05, 0.2
"""Of the samples to the target at the smallest batch, how far evaluations lie apart; of a run's training seconds, how much they may take."""
SHORT_S = 600.0
"""Below this budget sharpness is measured on fewer samples and points."""
SHORT, LONG = (2000, 13), (5000, 25)
"""(training samples that losses are taken over, points on each line)."""
NUM_PASSES = 400
"""Over the samples, about: 209 gradients and curvatures were counted for the two solutions of a study of the digits, and a curvature takes as
long as some gradients."""
SHARPNESS_SHARE = 0.2
"""Of the budget, how much sharpness may take."""


class Expected:
    """Seconds of runs under one optimizer, by the study's profiles and the recipe's own run.

    Args: profile: of the recipe as it is; reference: its run; own: the optimizer's profile.
    """

    def __init__(self, spec: TrainSpec, profile: Profile, reference: RunResult, own: Profile | None = None) -> None:
        summary = reference.summary
        self._profile, self._of_recipe = own or profile, profile
        self.epochs = float(spec.stop.epochs or summary.samples_seen / profile.num_train_samples)
        self._curve: Curve | None = None
        if spec.stop.at_target:
            with contextlib.suppress(InputError):  # it did not reach its target: runs are expected to last to their end
                assert spec.stop.target_score is not None  # a study without a target is refused
                self._curve = curve_through(reference, spec.stop.target_score)
        self.evaluates_every = evaluates_every(spec, profile, reference)
        # As fast, and as often interrupted by evaluations, as the run that has just been done beside whatever else there is.
        self._drops = spec.batch.last == "drop"
        profiled_s = summary.samples_seen * profile.seconds_per_sample(summary.global_batch_size, drops=self._drops)
        self._pace = summary.training_seconds / profiled_s if summary.steps else 1.0
        as_often = spec.evaluation.every_epochs / (self.evaluates_every or spec.evaluation.every_epochs)
        self._beside_s = max(summary.wall_seconds - summary.training_seconds - summary.evaluation_seconds, 0.0) + BESIDE_RUN_S
        self._evaluation_s = as_often * summary.evaluation_seconds / summary.samples_seen if summary.samples_seen else 0.0

    def _seconds(self, batch: int, samples: float) -> float:
        return samples * (self._pace * self._profile.seconds_per_sample(batch, drops=self._drops) + self._evaluation_s) + self._beside_s

    def to_the_end(self, batch: int) -> float:
        """Wall-clock seconds of a run through all epochs."""
        return self._seconds(batch, self.epochs * self._profile.num_train_samples)

    def of_a_search(self, batch: int) -> float:
        """Wall-clock seconds of a run to the target, with a rate that is not yet tuned, or to its end."""
        samples = self.epochs * self._profile.num_train_samples
        return self._seconds(batch, samples if self._curve is None else min(samples, UNTUNED * self._curve.samples(batch)))

    def chosen_for_the_end(self, batches: Sequence[int], most_s: float) -> list[int]:
        """The batches whose best settings the study trains to the end: all, or the first and the last, or none, as they fit into so many seconds."""
        choices = [[*batches], [batches[0], batches[-1]]]
        return next((chosen for chosen in choices if sum(map(self.to_the_end, chosen)) <= most_s), [])

    def of_sharpness(self, budget_s: float) -> float:
        """Wall-clock seconds of measuring the sharpness of two solutions, about: gradients alone, which take as long under every optimizer."""
        samples = min(SHORT[0] if budget_s < SHORT_S else LONG[0], self._of_recipe.num_train_samples)
        fastest = min(point.seconds_per_step / point.global_batch_size for point in self._of_recipe.points)
        return min(NUM_PASSES * samples * fastest, SHARPNESS_SHARE * budget_s)


def evaluates_every(spec: TrainSpec, profile: Profile, reference: RunResult) -> float | None:
    """Epochs between the evaluations of the study's runs, so that times of batch sizes are told apart; None: the recipe's, which are as close.

    A twentieth of what the smallest batch is expected to take to the target, by the recipe's own run; farther where evaluating so often would take
    more than a fifth of the training seconds, at the batch whose samples are the fastest. The recipe's, too, with `stop.patience`, which counts them.
    """
    assert spec.stop.target_score is not None  # a study without a target is refused
    met = crossing(reference, spec.stop.target_score)
    summary = reference.summary
    if met is None or not summary.steps or spec.stop.patience is not None:
        return None
    needed = met.samples
    with contextlib.suppress(InputError):  # it measured no noise: its own samples stand for those of the smallest batch
        needed = min(curve_through(reference, spec.stop.target_score).crossed(min(candidates(profile))), needed)
    drops = spec.batch.last == "drop"
    pace = summary.training_seconds / (summary.samples_seen * profile.seconds_per_sample(summary.global_batch_size, drops=drops))
    seconds_per_sample = pace * min(profile.seconds_per_sample(batch, drops=drops) for batch in candidates(profile))
    evaluation_s = summary.evaluation_seconds / len(reference.evaluations)
    samples = max(SPACING * needed, evaluation_s / (EVALUATION_SHARE * seconds_per_sample))
    epochs = float(f"{samples / profile.num_train_samples:.3g}")
    return epochs if epochs < spec.evaluation.every_epochs else None


def candidates(profile: Profile, step: int = COARSE) -> list[int]:
    """Batches `step` times apart, from 16 to half the training set, that one included, as far as they can be trained.

    Half of an odd number is rounded up: else every epoch would end in a third batch, of a single sample.
    """
    sizes = [point.global_batch_size for point in profile.points]
    largest = max(min((profile.num_train_samples + 1) // 2, max(sizes)), min(sizes))
    smallest = max(16, min(sizes))
    batches = [smallest]
    while batches[-1] * step <= largest:
        batches.append(batches[-1] * step)
    if largest >= 2 * batches[-1]:
        batches.append(largest)
    elif step == FINE and len(batches) > 1:
        batches[-1] = largest
    return batches if len(batches) >= 3 else sorted({smallest, max((smallest + largest) // 2, 1), largest})
