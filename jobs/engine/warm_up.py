"""Setting kernels up before the training clock starts, and leaving no trace of it.

The first pass through a model, a loss and an optimizer costs up to a second that no later pass costs: code
that is imported on first use, thread pools, kernel choice. It belongs to no batch size. A compiled model is compiled
here too, for every size of micro-batch that the plan has.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from largebatch.jobs.data.batches import in_channels_last
from largebatch.jobs.engine.gradient.activation_checkpointing import blocks_called_by, run_again
from largebatch.jobs.engine.gradient.precision import in_precision
from largebatch.jobs.engine.model_errors import errors_in_words, failure
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.ranks.gradient_norm import SquaredNorm
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING
from largebatch.jobs.errors import LargebatchError, PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import forward_pass_of
from largebatch.jobs.models.parameters import refuse_sparse_gradients
from largebatch.jobs.models.sample_dropout import sample_dropouts, set_dropout_keys
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.jobs.optim.split.heads import layers_seen
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, cut_sequences, map_leaves
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.outputs import tensors_of

NUM_BLANK = 4
"""Samples of a pass that finds out what a model takes, gives and keeps."""


def warm_up(state: TrainState, plan: TrainPlan, dataset: Dataset) -> None:
    """A pass of every micro-batch size that the first steps have, one reduction, and one update of a throw-away model.

    Where sequences are cut, the first steps of each length. A model that is compiled makes a pass of every size of the whole run.
    Raises: PlanError if it cannot be compiled on this machine.
    """
    for size, length in _passes(state, plan):
        try:
            blank_pass(plan.spec, state.task, state.model, state.forward, dataset, size, length)
        except LargebatchError:
            raise
        except ANYTHING as error:  # a person's own model may raise anything, and torch.compile, such as for a compiler that is not installed
            if any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__):
                reason = str(error).strip().partition("\n")[0]
                problem = f"the model cannot be compiled on this machine: {reason}."
                raise PlanError("compile", problem, "Install a C++ compiler such as g++, or set compile: false.") from error
            # Where memory ran out the step will find out the same, halve its micro-batch and say so.
            if not ran_out_of_memory(error):
                raise failure(error, dataset.blank(size, state.ranks.device), "training", state.model, state.task) from error
    # The first reduction opens the connections between ranks.
    with state.all_reduce.step(plan.step_at(state.progress.position), total_weight=0, num_micro_batches=0):
        pass
    for parameter in state.model.parameters():
        parameter.grad = None
    state.ranks.sum_numbers(0.0)
    _blank_update(plan.spec, next(state.model.parameters()).device)


def _passes(state: TrainState, plan: TrainPlan) -> list[tuple[int, int | None]]:
    """(Samples, tokens of a sequence or None) of the passes that set kernels up."""
    compiles = plan.spec.compile
    kinds = plan.kinds_of_batch() if compiles or plan.spec.batch.schedule.short_sequences else [plan.next_batch(Position(0, 0))]
    by_length: dict[int | None, list[Slice]] = {}
    for batch in kinds:
        by_length.setdefault(plan.sequence_length_of(batch), []).append(batch)
    return [
        (size, length)
        for length, batches in by_length.items()
        for size in micro_batch_sizes(plan, batches if compiles else batches[:1], state.micro_batch_size, state.ranks.rank)
    ]


def micro_batch_sizes(plan: TrainPlan, batches: Iterable[Slice], micro_batch_size: int, rank: int) -> list[int]:
    """The sizes of a rank's micro-batches in these steps, smallest first."""
    parts = list[Slice]()
    for batch in batches:
        share = batch.share(rank, plan.world_size, plan.unit)
        if plan.cut_every_steps != 1 or (plan.world_size > 1 and not plan.measures_dual_norm):
            parts += share.split(micro_batch_size, plan.unit)
        # Steps that measure noise are cut in two at least; where it is in the optimizer's norm, at the middle of the batch.
        if plan.cut_every_steps and plan.measures_dual_norm:
            parts += [part for half in share.cut(batch.middle(plan.unit)) for part in half.split(micro_batch_size, plan.unit)]
        elif plan.cut_every_steps and plan.world_size == 1:
            parts += share.split(micro_batch_size, plan.unit, at_least=2)
    return sorted({part.size for part in parts})


def blank_pass(
    spec: TrainSpec, task: Task, model: nn.Module, forward: Callable[..., Any], dataset: Dataset, size: int, sequence_length: int | None = None
) -> None:
    """Forward and backward of `size` blank samples, cut into sequences of so many tokens; the model is left as it was."""
    device = next(model.parameters()).device
    with untouched(model, size):
        batch = _blank(spec, task, dataset, size, device)
        batch = batch if sequence_length is None else cut_sequences(batch, sequence_length)
        task.probe(in_precision(forward, spec.precision, device), batch).backward()  # type: ignore[no-untyped-call]
        refuse_sparse_gradients(model)
        SquaredNorm([parameter for parameter in model.parameters() if parameter.requires_grad])()


def _blank(spec: TrainSpec, task: Task, dataset: Dataset, size: int, device: torch.device) -> Tree:
    batch = task.prepared(dataset.blank(size, device), spec.seed, Slice(0, 0, size), device)
    return map_leaves(in_channels_last, batch) if spec.model.channels_last else batch


def activation_bytes_per_sample(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset) -> int:
    """Bytes that a forward pass in training keeps for the backward pass, per sample, parameters not counted. Raises: PlanError.

    Where blocks run once more in the backward pass, what is kept beside them and the most that one of them keeps then.
    """
    parameters, largest_block = {_memory_of(parameter) for parameter in model.parameters()}, 0
    lets_go, was_asked_back = True, False

    @contextmanager
    def counting() -> Iterator[dict[StorageWeakRef, int]]:
        sizes: dict[StorageWeakRef, int] = {}

        def count(tensor: Tensor) -> Tensor | None:
            """Counts what would be kept, and lets go of it: there is no backward pass, and the memory of one is not needed."""
            storage = _memory_of(tensor)
            if storage not in parameters:
                sizes[storage] = tensor.untyped_storage().nbytes()
            return None if lets_go else tensor

        def give_back(tensor: Any) -> Any:
            nonlocal was_asked_back
            was_asked_back = True
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, give_back):
            yield sizes

    def counted(function: Callable[..., Any], *values: Any) -> Any:
        nonlocal largest_block
        inputs.update((_memory_of(value), value.untyped_storage().nbytes()) for value in values if isinstance(value, Tensor))
        with counting() as within:
            function(*values)
        largest_block = max(largest_block, sum(within.values()))
        return run_again(function, *values)  # so that no more than one block is held whole

    def kept() -> dict[StorageWeakRef, int]:
        with blocks_called_by(model, counted), counting() as sizes:
            _blank_forward(spec, task, model, dataset)
        return sizes

    inputs: dict[StorageWeakRef, int] = {}
    try:
        sizes = kept()
    except PlanError:
        if not was_asked_back:
            raise
        lets_go = False  # it takes a gradient of its own, as a loss that goes by its inputs' does
        sizes = kept()
    return (sum({**sizes, **inputs}.values()) + largest_block) // NUM_BLANK + 1


def _memory_of(tensor: Tensor) -> StorageWeakRef:
    """What tells a tensor's memory from any other, also from what takes its address once it is let go."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def outputs_and_layers(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset) -> tuple[list[Tensor], dict[Any, str]]:
    """What a model gives for a few blank samples, with its history, and what `layers_seen` saw of its layers. Raises: PlanError."""
    given: list[Tensor] = []
    with layers_seen(model) as layers:
        _blank_forward(spec, task, model, dataset, lambda output: given.extend(tensors_of(output)))
    return given, layers


def refuse_misfit(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset) -> None:
    """Try a few blank samples. Raises: PlanError if the model cannot take them, or gives what the task cannot use."""
    with torch.no_grad():
        _blank_forward(spec, task, model, dataset)


def _blank_forward(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset, look: Callable[[Any], object] = lambda output: None) -> Tensor:
    """What the task makes of a few blank samples in training. Args: look: gets what the model gives. Raises: PlanError if it cannot take them."""
    batch = _blank(spec, task, dataset, NUM_BLANK, next(model.parameters()).device)

    def fitting(*inputs: Any, **named: Any) -> Any:
        output = model(*inputs, **named)
        task.refuse_output(output, batch, "training")
        look(output)
        return output

    with errors_in_words(batch, "training", model, task), untouched(model, NUM_BLANK):
        return task.probe(fitting, batch)


@contextmanager
def untouched(model: nn.Module, num_samples: int) -> Iterator[None]:
    """A context for passes of so many samples that count for nothing: it leaves a model's buffers and gradients as they were."""
    dropouts, forward_pass, device = sample_dropouts(model), forward_pass_of(model), next(model.parameters()).device
    with restored(model, weights=False):
        set_dropout_keys(dropouts, 0, Slice(0, 0, num_samples), device)
        forward_pass.begin(num_samples)
        seed_draws(key("warm-up"), device)
        try:
            yield
        finally:
            for dropout in dropouts:
                dropout.set_keys(None)
            forward_pass.forget()
            for parameter in model.parameters():
                parameter.grad = None


def _blank_update(spec: TrainSpec, device: torch.device) -> None:
    """One step of the same optimizer on something small: its code is loaded, the real one's state untouched."""
    model = nn.Linear(2, 2, device=device)
    optimizer = build_optimizer(model, spec.optimizer)
    set_learning_rate(optimizer, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
