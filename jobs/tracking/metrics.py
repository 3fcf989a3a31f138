"""What MLflow keeps of a run in numbers. Its time axis is the training clock: a metric's time is the run's start plus its training seconds."""

from collections.abc import Iterator
from typing import NamedTuple

from largebatch.jobs.run.records import EvalRecord, JournalRecord, RunSummary, StartRecord, StepRecord
from largebatch.jobs.tracking.mirror_state import MirrorState

OF_STEPS = ("loss", "learning_rate", "gradient_norm", "global_batch_size", "samples_seen", "tokens_seen", "epoch", "training_seconds", "gain")
OF_ENDS = (
    "samples_per_second", "time_to_target_seconds", "steps_to_target", "gradient_noise_scale", "norms_noise_scale", "dual_noise_scale",
    "wall_seconds", "steps", "epochs", "samples_seen", "training_seconds", "tokens_seen", "tokens_per_second",
)  # fmt: skip


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    training_seconds: float
    step: int


def points_of(record: JournalRecord, state: MirrorState, step_every_s: float) -> Iterator[Point]:
    """What MLflow keeps of a record as it comes; the state takes note of it. Args: step_every_s: training seconds between two steps that are sent."""
    if isinstance(record, (StartRecord, StepRecord)):
        state.step = record.step
    if isinstance(record, StartRecord):
        state.evaluated_on = record.evaluated_on
    if isinstance(record, StepRecord) and record.step > state.last_step:
        state.last_step = record.step
        # A run that was killed and repeats steps faster is behind the clock of the last one sent; that is no reason to skip.
        if state.last_sent_s is None or not 0 <= record.training_seconds - state.last_sent_s < step_every_s:
            yield from step_points(record, state)
    elif isinstance(record, EvalRecord) and record.step > state.last_evaluation_step:
        state.last_evaluation_step = record.step
        # Under a name of its own: step records, which are sent now and then, have samples_seen at this step too.
        for name in ("samples_seen", "tokens_seen"):
            if (seen := getattr(record, name)) is not None:
                yield Point(f"{state.evaluated_on}_{name}", seen, record.training_seconds, record.step)
        scores = {f"{state.evaluated_on}_{name}": score for name, score in record.scores.items()}
        for name, value in {**scores, "evaluation_seconds": record.evaluation_seconds}.items():
            yield Point(name, value, record.training_seconds, record.step)


def step_points(record: StepRecord, state: MirrorState) -> Iterator[Point]:
    """A step's metrics; the state takes note that they are sent."""
    state.last_sent_s, state.last_sent_step = record.training_seconds, record.step
    for name in OF_STEPS:
        if (value := getattr(record, name)) is not None:
            yield Point(name, value, record.training_seconds, record.step)


def end_points(summary: RunSummary) -> list[Point]:
    """The metrics of a run's end."""
    values = {f"final_{name}": getattr(summary, name) for name in OF_ENDS}
    part, scores = summary.evaluated_on, {"train": summary.train_score, "test": summary.test_score}
    scores |= {part: summary.score, f"best_{part}": summary.best_score}
    values |= {f"final_{begin}_{summary.headline.name}": score for begin, score in scores.items()}
    return [Point(name, value, summary.training_seconds, summary.steps) for name, value in values.items() if value is not None]
