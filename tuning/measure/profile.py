"""Step time, epoch time, samples per second and memory against the batch size, on one's own model and device.

Nothing is trained for keeps: every batch size gets a fresh model and takes a few real optimizer steps, data
reading, reduction and update included, as a job's training clock counts them.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from largebatch.jobs.device import device_name
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.engine.warm_up import warm_up
from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mlflow_store import brief
from largebatch.jobs.tracking.params import flat
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint
from largebatch.tuning.results.run_result import part_in_words
from largebatch.tuning.sweep.space import with_fields

SECONDS_PER_BATCH = 1.0
FEWEST_STEPS = 2


def batch_sizes_to_profile(num_samples: int) -> list[int]:
    """1, 2, 4 ... and the full set."""
    sizes = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples]
    return [*sizes, num_samples]


def profile(
    spec: TrainSpec,
    prepare: Callable[[TrainSpec], Prepared],
    batch_sizes: Sequence[int] | None = None,
    *,
    seconds_per_batch: float = SECONDS_PER_BATCH,
    most_seconds: float = math.inf,
    on_point: Callable[[int, int, int], None] = lambda batch, done, of: None,
) -> Profile:
    """Time a few steps at each batch size, smallest first.

    Args:
        prepare: makes a job ready on the device to be profiled.
        batch_sizes: samples per step; default 1, 2, 4 ... and the full training set.
        seconds_per_batch: how long to time each; at least two steps are.
        most_seconds: a batch size whose few steps would take longer, by the one before, is left out.
        on_point: told a batch size before its turn, with how many are done, of how many.
    Raises: InputError if no batch size at all can be trained.
    """
    some = prepare(_at(spec, None))
    sizes = sorted(set(batch_sizes or batch_sizes_to_profile(some.plan.num_train_samples)))
    device, num_samples = device_name(some.device), some.plan.num_train_samples
    gradient_bytes = sum(parameter.nbytes for parameter in some.model.parameters() if parameter.requires_grad)
    points: list[ProfilePoint] = []
    left_out: dict[int, str] = {}
    last: LargebatchError | None = None
    for done, size in enumerate(sizes):
        on_point(size, done, len(sizes))
        expected_s = (FEWEST_STEPS + 1) * points[-1].seconds_per_step * size / points[-1].global_batch_size if points else 0.0
        if expected_s > most_seconds:
            left_out[size] = f"its {FEWEST_STEPS + 1} steps would take about {expected_s:,.0f} s, and there are {most_seconds:,.1f} s."
            continue
        try:
            points.append(_measure(prepare(_at(spec, size)), seconds_per_batch))
        except LargebatchError as error:
            left_out[size], last = str(error), error
        except Exception as error:  # a model, maybe a person's own, may raise anything
            last = InputError("model", f"fails at a batch of {size:,}: {type(error).__name__}: {brief(error).rstrip('.')}.")
            left_out[size] = str(last)
    if not points:
        raise last or InputError("--batch-sizes", "is empty.")
    fields = flat(spec.model_dump(mode="json"))
    return Profile(
        recipe=spec.name, device=device, num_train_samples=num_samples, tokens_per_sample=some.plan.tokens_per_sample,
        gradient_bytes=gradient_bytes, points=points, left_out=left_out,
        dataset_in_words=part_in_words(fields, "dataset"), model_in_words=part_in_words(fields, "model"), seed=spec.seed,
        threads=torch.get_num_threads(), optimizer=spec.optimizer.label,
    )  # fmt: skip


def _at(spec: TrainSpec, batch: int | None) -> TrainSpec:
    """The spec at one batch, without what depends on the batch's relation to others."""
    target = spec.stop.model_dump(include={"target", "target_accuracy"})  # one that cannot be met is refused before anything is measured
    fields: dict[str, object] = {"batch.schedule": {}, "stop": {**target, "epochs": 1000.0}, "learning_rate": {"base": 1e-4}}
    return with_fields(spec, fields | ({} if batch is None else {"batch.global_batch_size": batch}))


def _measure(job: Prepared, seconds: float) -> ProfilePoint:
    """Steps of whole batches alone are timed: the last of an epoch is shorter, and of a batch above half of the set every second step is."""
    state, batches, size = new_state(job), training_batches(job), job.plan.global_batch_size

    def take_step() -> bool:
        """Returns whether it was of a whole batch."""
        step = job.plan.step_at(state.progress.position)
        return optimizer_step(state, job.plan, step, batches, lambda notice: None).global_batch_size == size

    warm_up(state, job.plan, job.dataset)
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)
    take_step()  # the first one makes the optimizer's state
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < FEWEST_STEPS:
        before = state.clock.training_s
        with state.clock.training():
            is_whole = take_step()
        if is_whole:
            times.append(state.clock.training_s - before)
    step = median(times)
    return ProfilePoint(
        global_batch_size=size,
        micro_batch_size=state.micro_batch_size,
        seconds_per_step=step,
        seconds_per_epoch=step * job.plan.num_train_samples / size,
        samples_per_second=size / step,
        peak_memory_bytes=_peak_memory_bytes(job.device),
        num_steps=len(times),
    )


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
