"""Evaluation on a whole part of a data set: the task's sums over all samples on all ranks, divided once."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.data.sample_draws import EVALUATION
from largebatch.jobs.engine.gradient.precision import in_precision
from largebatch.jobs.engine.gradient.two_pass import gathered
from largebatch.jobs.engine.non_finite import FiniteBatches, non_finite_error
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import EVALUATION_BATCH, TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import FaultError, PlanError
from largebatch.jobs.models.modes import evaluation_mode
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.plan.step_plan import Slice
from largebatch.jobs.tasks.base import Batch, Forward, Task, is_of_task
from largebatch.jobs.tasks.contrastive import CoupledTask, Embeddings
from largebatch.jobs.tasks.nearest_neighbours import Labelled

SMALLEST_FIRST_TRY = 64
"""Samples that evaluation tries at once even where a training step takes fewer: it keeps nothing for a backward pass."""


Scores = dict[str, float]
"""Each metric's value by its name; "loss" is always one, without label smoothing."""
WEIGHT = "weight of all samples"
"""Beside a task's own sums: what they are divided by."""


@contextmanager
def evaluation_weights(state: TrainState) -> Iterator[None]:
    """The model in evaluation mode, with averaged weights where the run keeps them; what its passes do to buffers is undone."""
    with evaluation_mode(state.model):
        if state.average:
            state.average.swap()
        try:
            with restored(state.model, weights=False):
                yield
        finally:
            if state.average:
                state.average.swap()


@torch.no_grad()
def evaluate(
    state: TrainState,
    batches: Batches,
    num_samples: int,
    precision: str,
    on_progress: Callable[[int], Any] = lambda done: None,
    notify: Callable[[str], Any] = lambda text: None,
) -> Scores:
    """The scores on samples 0 ... num_samples - 1, every one once, each rank counting its share; the references, where there are some, too.

    Args:
        precision: "float32" or "bfloat16".
        on_progress: told how many samples are done.
        notify: told in words when memory ran out and fewer samples are passed forward at once.
    Raises: LargebatchError, the same on every rank, for a sample that cannot be read or where not even one fits.
    """
    unit = evaluation_unit(state.model)

    def seen_of(batches: Batches, num_samples: int) -> list[Any]:
        share = evaluation_share(num_samples, state.ranks, unit)
        kept: list[Any] = []
        start = share.start
        while start < share.stop:
            size = samples_at_once(state.micro_batch_size, state.evaluation_batch_size)
            samples = _whole_groups(share, start, size, unit)
            seen = _seen_if_it_fits(state, batches, samples, precision)
            if seen is None:
                _halve(state, samples.size, unit, notify)
                continue
            _keep(seen, kept)
            start = samples.stop
            on_progress(start - share.start)
        return kept

    references = state.references
    with evaluation_weights(state):
        seen = state.ranks.agreed(lambda: seen_of(batches, num_samples))
        seen_references = state.ranks.agreed(lambda: seen_of(references.batches, references.num_samples)) if references else []
    state.buffers.forward_pass.forget()
    if isinstance(state.task, CoupledTask):
        embeddings, labelled, partners = _everyones(state.ranks, seen, num_samples, unit)
        compared = _everyones(state.ranks, seen_references, references.num_samples, unit)[1] if references else None
        known = {} if partners is None else {"partners": partners}
        return state.task.coupled_metrics(embeddings, labelled, compared, **known)
    return _scores(state, numbers_of(seen[0]) if seen else {})


def _keep(seen: Any, kept: list[Any]) -> None:
    """Take note of what some samples gave: sums are added up at once."""
    if isinstance(seen, dict) and kept:
        kept[0] |= {name: kept[0][name] + value if name in kept[0] else value for name, value in seen.items()}
    else:
        kept.append(seen)


class _Seen(NamedTuple):
    """What some samples give to a task that compares them all."""

    embeddings: Embeddings
    labelled: Labelled | None
    partners: Tensor | None
    """See `CoupledTask.partner_keys`."""


def _everyones(ranks: Ranks, own: list[_Seen], num_samples: int, unit: int) -> _Seen:
    """What all ranks' samples gave, in the samples' order."""
    sizes = [evaluation_share(num_samples, ranks, unit, rank).size for rank in range(ranks.world_size)]
    pieces = [(*seen.embeddings, *(() if seen.partners is None else (seen.partners,)), *(seen.labelled or ())) for seen in own]
    tensors = gathered(ranks, pieces, sizes)
    embeddings, others = tensors[: len(Embeddings._fields)], tensors[len(Embeddings._fields) :]
    partners = others.pop(0) if len(others) % len(Labelled._fields) else None
    return _Seen(Embeddings(*embeddings), Labelled(*others) if others else None, partners)


def _scores(state: TrainState, own: dict[str, float]) -> Scores:
    """The metrics of all ranks' sums; a rank without samples has none. Raises: PlanError, on every rank, where they are no numbers."""
    names = list(dict.fromkeys(name for names in state.ranks.gathered(list(own)) for name in names))
    sums = dict(zip(names, state.ranks.sum_numbers(*(own.get(name, 0.0) for name in names)), strict=True))
    weight = sums.pop(WEIGHT)
    if not 0 < weight < math.inf:
        hint = "Give some of them a weight." if weight == 0 else "Weights must be finite, and at least 0."
        raise PlanError("task", f"the samples of an evaluation weigh {weight:g} together, and a mean divides by that.", hint)
    return scores_of(state.task, sums, weight, f"after step {state.progress.step}")


def scores_of(task: Task, sums: dict[str, float], weight: float, when: str) -> Scores:
    """The task's metrics of sums over samples. Raises: PlanError where they are no numbers; InputError or CodeError for what they raise."""
    try:
        scores = {"loss": sums["loss"] / weight, **task.metrics(dict(sums), weight)}
    except ANYTHING as error:  # a person's own code may raise anything
        raise failed("task", error, f"{when}, making scores of {', '.join(sums)}") from error
    for name in (metric.name for metric in task.all_metrics()):
        if not isinstance(scores.get(name), (int, float)):
            given = f"its metric {name} is a {type(scores[name]).__name__}" if name in scores else f"its metrics give no number for {name}"
            raise PlanError("task", f"{given}; they give {', '.join(scores)}.", "Return a number for each metric that it names.")
    return {name: float(score) for name, score in scores.items()}


def sums_of(task: Task, forward: Forward, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A task's sums over a batch, the loss always among them, and what its samples weigh; 0-d, of our own tasks also (n,) for n of a kind.

    Raises: PlanError for what is no single number in a person's own.
    """
    sums = dict(task.metric_sums(forward, batch) or {})
    if "loss" not in sums:
        sums = {**sums, "loss": task.loss_sum(forward, batch)}
    sums[WEIGHT] = task.weight(batch)
    are_ours = type(task).__module__.startswith("largebatch.")
    return {name: _exact(name, value, device, are_ours) for name, value in sums.items()}


def numbers_of(sums: dict[str, Tensor]) -> dict[str, float]:
    """Sums on the host; of several in one tensor each by its place: "targets.0", "targets.1" and so on."""
    numbers: dict[str, float] = {}
    for name, total in sums.items():
        numbers |= {f"{name}.{place}": number for place, number in enumerate(total.tolist())} if total.ndim else {name: float(total)}
    return numbers


def refuse_non_finite_samples(state: TrainState, batches: Batches, num_samples: int, precision: str, kind: str = "test") -> None:
    """Raise DataError, the same on every rank, if the loss on the samples of a part is finite but for those that hold NaN or infinity.

    Args: kind: the part's name, for the sentence.
    """
    finite = FiniteBatches(batches)
    if math.isfinite(evaluate(state, finite, num_samples, precision)["loss"]):
        num_read = evaluation_share(num_samples, state.ranks).size
        state.ranks.raise_first(non_finite_error(kind, finite.replaced, num_read, f"the {kind} loss"))


def _seen_if_it_fits(state: TrainState, batches: Batches, samples: Slice, precision: str) -> dict[str, Tensor] | _Seen | None:
    """A task's sums over some samples, and what they weigh; of a task that couples samples their embeddings; None if memory ran out."""
    task, device = state.task, state.ranks.device
    try:
        batch = task.prepared(batches.read(samples), state.seed, samples._replace(epoch=EVALUATION), device)
        state.buffers.forward_pass.begin(samples.size)
        forward = in_precision(state.model, precision, device)
        if isinstance(task, CoupledTask):
            return _Seen(*task.embed_labelled(forward, batch), task.partner_keys(batch))
        return sums_of(task, forward, batch, device)
    except ANYTHING as error:  # a person's own model may raise anything
        if not ran_out_of_memory(error):
            field = "task" if is_of_task(error, task, state.model) else "model"
            raise failed(field, error, f"after step {state.progress.step}, evaluating {samples.size} samples") from error
    return None


def _exact(name: str, value: Tensor | float, device: torch.device, may_be_many: bool = False) -> Tensor:
    """A sum in the widest numbers of its device, so that adding up loses nothing. Raises: PlanError for what is no single number."""
    is_one = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    if not is_one and not (may_be_many and isinstance(value, Tensor) and value.ndim == 1):
        form = f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise PlanError("task", f"its sum {name} over a batch is {form}; it must be one number.", "End it with .sum().")
    exact = torch.as_tensor(value, device=device).to(torch.float32 if device.type == "mps" else torch.float64)
    return exact.reshape(()) if is_one else exact


def _halve(state: TrainState, size: int, unit: int, notify: Callable[[str], Any]) -> None:
    """Evaluate half as many samples at once from here on. Raises: FaultError if there is no smaller number."""
    if size <= unit + (unit > 1):
        fewest = "one sample" if size == 1 else f"{size} samples, a batch-norm group,"
        raise FaultError("model", f"evaluation runs out of memory even with {fewest} at a time.", "Use a smaller model, or precision bfloat16.")
    make_room()
    notify(f"Out of memory in evaluation: {size} -> {size // 2} samples at once.")
    state.evaluation_batch_size = size // 2


def evaluation_share(num_samples: int, ranks: Ranks, unit: int = 1, of_rank: int | None = None) -> Slice:
    """The samples that this rank evaluates, or another.

    Args: unit: samples that share statistics (`evaluation_unit`); a share is whole groups of them. A last group of a single
        sample, which would have no variance, is part of the group before it.
    """
    number = ranks.rank if of_rank is None else of_rank
    groups = num_samples if unit == 1 else max((num_samples + unit - 2) // unit, 1)
    first, last = (groups * rank // ranks.world_size for rank in (number, number + 1))
    return Slice(0, first * unit, num_samples if last == groups else last * unit)


def _whole_groups(share: Slice, start: int, size: int, unit: int) -> Slice:
    """The next `size` samples of a share, more or fewer to make whole groups."""
    stop = min(start + max(size // unit, 1) * unit, share.stop)
    return Slice(0, start, share.stop if unit > 1 and share.stop - stop == 1 else stop)


def samples_at_once(micro_batch_size: int, most: int = EVALUATION_BATCH) -> int:
    """How many samples evaluation passes forward at once, where memory allows."""
    return min(max(micro_batch_size, SMALLEST_FIRST_TRY), most)
