"""Share: one rank's part of a step, its micro-batches with what they weigh, and what went wrong with them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.data.loaders import LoaderBatches
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import DataError, LargebatchError, PlanError
from largebatch.jobs.models.sample_dropout import set_dropout_keys
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, cut_sequences, leaves, map_leaves, num_samples, rows
from largebatch.jobs.tasks.base import is_of_task

MOST_KEPT_BYTES = 2**30
"""Of a step's samples that are read one by one, where each must be seen twice: going back costs a new start of what reads them."""
MOST_KEPT_BYTES_OF_HELD = 2**26
"""The same of samples that are held, which are taken out once more in no time: a batch of images need not lie in memory whole."""


class Share:
    """One rank's part of a step; the others are told of it when the gradient is reduced.

    Args: batches: where its samples are read from.
    """

    def __init__(self, state: TrainState, step: StepPlan, batches: Batches) -> None:
        self.state, self.step = state, step
        self.micro_batches = step.micro_batches(state.ranks.rank, state.micro_batch_size)
        """Maybe none."""
        self.weights = [float(micro_batch.size) for micro_batch in self.micro_batches]
        """What each micro-batch weighs."""
        self.total_weight = 0.0
        """Of the whole step, on all ranks; of a local step, of this rank's share."""
        self.has_run_out = False
        """Whether memory ran out."""
        self.error: LargebatchError | None = None
        """What went wrong with its samples, or in the model."""
        self._batches = batches
        self._read: dict[Slice, Tree] = {}
        """What is kept of what was read already."""
        self._room = MOST_KEPT_BYTES if isinstance(batches, LoaderBatches) else MOST_KEPT_BYTES_OF_HELD
        """Bytes that may still be kept; none once something had no room, so that what is read again is read in its order."""
        self._weighed: dict[Slice, float] = {}
        """What was weighed and not kept."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing has gone wrong so far."""
        return not self.has_run_out and self.error is None

    @property
    def is_whole_batch(self) -> bool:
        """Whether one micro-batch has all samples of the step: nothing is split."""
        return self.state.ranks.world_size == 1 and len(self.micro_batches) == 1

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Context that keeps what goes wrong for the other ranks, who meet this one in the reduction first.

        Raises: what is neither lack of memory nor told in words.
        """
        try:
            yield
        except ANYTHING as error:
            if ran_out_of_memory(error):
                self.has_run_out = True
            elif isinstance(error, LargebatchError):
                self.error = error
            else:
                raise

    def weigh(self) -> None:
        """Find the weight of the step; where samples weigh otherwise than 1, by reading them all."""
        step, task = self.step, self.state.task
        if task.counts_samples:
            self.total_weight = sum(self.weights) if step.is_local else float(step.samples.size)
            return
        with self.noting():
            self.weights = [self._weight(micro_batch) for micro_batch in self.micro_batches]
            for micro_batch, weight in zip(self.micro_batches, self.weights, strict=True):
                if not 0 <= weight < math.inf:  # an infinite one would make every loss 0
                    problem = f"{micro_batch.size} samples of step {step.number} weigh {weight:g} together, by its weight."
                    raise DataError("task", problem, "Weights must be finite, and at least 0.")
        own_weight = sum(self.weights) if self.is_sound else 0.0
        self.total_weight = own_weight if step.is_local else self.state.ranks.sum_numbers(own_weight)[0]
        if not self.total_weight > 0 and self.is_sound:
            problem = f"the {step.samples.size} samples of step {step.number} weigh {self.total_weight:g} together, and a mean divides by that."
            self.error = DataError("task", problem, "Give some of them a weight.")

    def _weight(self, micro_batch: Slice) -> float:
        """What a micro-batch weighs; it is kept for its pass if there is room. Raises: LargebatchError."""
        batch = self.read(micro_batch)
        with self._in_words("task", "weighing its samples"):
            weight = _number(self.state.task.weight(batch), "weight")
        if self._takes_room(batch):
            self._read[micro_batch] = batch
        else:
            self._weighed[micro_batch] = weight
        return weight

    def _takes_room(self, batch: Tree) -> bool:
        """Whether a batch may be kept; it counts as kept then."""
        self._room = max(self._room - sum(leaf.nbytes for leaf in leaves(batch)), 0)
        return self._room > 0

    def sample_weights(self, batch: Tree, micro_batch: Slice) -> Tensor:
        """What each sample of a micro-batch weighs: (n,), float64, on the device."""
        task, size = self.state.task, micro_batch.size
        weights = [1.0] * size
        if not task.counts_samples:
            pieces = num_samples(batch) // size  # sequences that a sample was cut into
            with self._in_words("task", f"weighing {size} samples one by one"):
                weights = [_number(task.weight(rows(batch, start, start + pieces)), "weight") for start in range(0, size * pieces, pieces)]
        return torch.tensor(weights, dtype=torch.float64, device=self.state.ranks.device)

    def read(self, micro_batch: Slice) -> Tree:
        """A micro-batch, prepared as the task wants it, in the sequences that the step trains on; what was kept of it is given away.

        Raises: LargebatchError, also for samples that weigh otherwise when they are read once more: draws must follow from the seeds.
        """
        if micro_batch in self._read:
            return self._read.pop(micro_batch)
        batch = self._prepared(micro_batch)
        if micro_batch in self._weighed and isinstance(self._batches, LoaderBatches):
            before, now = self._weighed[micro_batch], _number(self.state.task.weight(batch), "weight")
            if before != now:
                problem = f"{micro_batch.size} samples of step {self.step.number} weigh {now:g} when they are read once more, and weighed {before:g}."
                raise DataError("dataset", problem, "Draw from torch's, numpy's or Python's own generators, which are seeded for each sample.")
        return batch

    def _prepared(self, micro_batch: Slice) -> Tree:
        state = self.state
        with self._in_words("dataset", f"reading {micro_batch.size} samples"):
            batch = self._batches.read(micro_batch)
        with self._in_words("task", f"preparing {micro_batch.size} samples"):
            batch = state.task.prepared(batch, state.seed, micro_batch, state.ranks.device)
            return batch if self.step.sequence_length is None else cut_sequences(batch, self.step.sequence_length)

    def read_for_two_passes(self, micro_batch: Slice) -> Tree:
        """As `read`. Of sets that are read sample by sample as much as `MOST_KEPT_BYTES` of a step is kept for the second."""
        batch = self.read(micro_batch)
        if isinstance(self._batches, LoaderBatches) and self._takes_room(batch):
            self._read[micro_batch] = map_leaves(torch.clone, batch)  # some models change their inputs
        return batch

    @contextmanager
    def passing(self, micro_batch: Slice, goes_on: bool = False) -> Iterator[None]:
        """Context of a micro-batch's forward pass, and of what follows it: what is drawn belongs to the samples, errors are told in words.

        Args: goes_on: whether the forward pass was in the context before.
        """
        state = self.state

        def field_of(error: BaseException) -> str:
            return "task" if is_of_task(error, state.task, state.model) else "model"

        with self._in_words(field_of, f"training on {micro_batch.size} samples"):
            if not goes_on:
                state.buffers.begin_pass(micro_batch.size)
                set_dropout_keys(state.dropouts, state.seed, micro_batch, state.ranks.device)
                # What a model draws from torch's generators belongs to the micro-batch, not to how many draws came before (reading makes some).
                seed_draws(key(state.seed, "dropout", micro_batch.epoch, micro_batch.start), state.ranks.device)
            yield

    @contextmanager
    def _in_words(self, field: str | Callable[[BaseException], str], doing: str) -> Iterator[None]:
        """Turn what a person's own data set, model or task raises into an error in words; lack of memory stays what it is."""
        try:
            yield
        except ANYTHING as error:
            if ran_out_of_memory(error):
                raise
            field = field if isinstance(field, str) else field(error)
            raise failed(field, error, f"at step {self.step.number}, {doing}") from error


def _number(value: object, name: str) -> float:
    """What a person's task gives as one number. Raises: PlanError for anything else."""
    if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1):
        return float(value)
    form = f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise PlanError("task", f"its {name} of a batch is {form}; it must be one number, the sum over the samples.", "End it with .sum().")
