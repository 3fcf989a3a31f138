"""Tries a person's own model on a few real samples before training; the model is left as it was.

Everything that the engine takes for granted is tried: logits (samples, classes) in training and in evaluation, of every number of
samples that the plan reads; and that a sample's logits and gradient are its own, for on that stands the exact global batch.
docs/decisions/021 says what is refused, and why.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from largebatch.jobs.data.dataset import Dataset
from largebatch.jobs.data.loaders import first_samples
from largebatch.jobs.engine.evaluate import samples_at_once
from largebatch.jobs.engine.model_state import refuse_unsaveable
from largebatch.jobs.engine.model_trial.dropout import refuse_coupled_dropout
from largebatch.jobs.engine.model_trial.independence import CERTAIN, difference, refuse_coupled_evaluation, refuse_coupled_training, tolerance
from largebatch.jobs.engine.model_trial.moved_weights import moved_by_forward
from largebatch.jobs.engine.model_trial.passes import Passes, Samples
from largebatch.jobs.engine.model_trial.read_statistics import read_in_training
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.engine.warm_up import micro_batch_sizes
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm
from largebatch.jobs.models.sample_dropout import sample_dropouts
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.spec.train_spec import TrainSpec

NUM_SAMPLES = 8
"""Samples that pass through together; as many others take their places."""

DRAWS = (
    "The model draws from torch's own generators in training (dropout inside attention or recurrent layers, functional.dropout, nn.Dropout on"
    " what is of no samples): these draws belong to the micro-batch, so that another micro-batch, or number of workers, gives others."
    " nn.Dropout's on samples are the samples' own."
)


@dataclass(frozen=True)
class Findings:
    """The facts of a model, and the notices for the person, that decide how it can be trained."""

    once_a_step: list[str] = field(default_factory=list)
    """Buffers that each pass in training moves, whichever its samples: a step's passes must begin from the same."""
    by_samples: list[str] = field(default_factory=list)
    """Buffers that keep something of the samples, and statistics of norms that training reads: a step must be one pass."""
    by_forward: list[str] = field(default_factory=list)
    """Parameters that the forward pass itself changes: workers would come to have different ones."""
    by_passes: list[str] = field(default_factory=list)
    """Parameters among them that several passes change otherwise than one: a step must be one pass."""
    notices: list[str] = field(default_factory=list)
    """Sentences for the person."""


class Trial(NamedTuple):
    """A model with the samples that it is tried on."""

    passes: Passes
    train: Samples
    others: Samples
    """Samples that take the places of some of them."""
    test: Samples
    num_test_samples: int
    findings: Findings


def try_out(spec: TrainSpec, model: nn.Module, dataset: Dataset, device: torch.device) -> Trial:
    """Passes a few samples through, in training and in evaluation. Raises: PlanError; DataError for samples that cannot be read."""
    is_channels_last = spec.model.channels_last
    first = Samples(*first_samples(dataset.train, dataset, 2 * NUM_SAMPLES, device, is_channels_last))
    test = Samples(*first_samples(dataset.test, dataset, NUM_SAMPLES, device, is_channels_last))
    train, others = first.rows(0, NUM_SAMPLES), first.rows(NUM_SAMPLES, 2 * NUM_SAMPLES)
    if len(others.labels) < NUM_SAMPLES:
        others = Samples(train.inputs.flip(0), train.labels.flip(0))
    refuse_unsaveable(model)
    trial = Trial(Passes(spec, model, dataset.num_classes), train, others, test, len(dataset.test), Findings())
    with _tried(trial):
        before = _buffers(model)
        reference = trial.passes.training(train)
        _sort_buffers(trial, before, model)
        trial.passes.evaluation(test.inputs)
        trial.findings.by_samples.extend(read_in_training(trial.passes, train, reference, tolerance(spec, model)))
        moved, by_passes = moved_by_forward(trial.passes, train)
        trial.findings.by_forward.extend(moved)
        trial.findings.by_passes.extend(by_passes)
    return trial


def refuse_unfit(trial: Trial, plan: TrainPlan) -> None:
    """Raise PlanError for what this plan asks of the model and it cannot do: splitting a batch, few samples at once, several workers."""
    findings = trial.findings
    if findings.by_forward and plan.world_size > 1:
        raise PlanError(
            "model",
            f"its forward pass changes {findings.by_forward[0]}: workers, which see different samples, would come to have different weights.",
            "Use one process, or leave the weights to the optimizer.",
        )
    if findings.by_passes and not _steps_are_passes(plan):
        raise PlanError(
            "model",
            f"its forward pass changes {findings.by_passes[0]}, further with each pass: the result would depend on how a batch is split.",
            f"{_one_pass(plan)} Or leave the weights to the optimizer.",
        )
    with _tried(trial):
        _refuse_coupled(trial, plan)
        _try_sizes(trial, plan)
    if findings.by_samples and not _steps_are_passes(plan):
        raise PlanError(
            "model",
            f"{findings.by_samples[0]} keeps something of the samples that pass through in training, which depends on how a batch is split.",
            _one_pass(plan),
        )


@contextmanager
def _tried(trial: Trial) -> Iterator[None]:
    """Context of passes that leave no trace; where memory ends them, a notice says what was not tried."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not ran_out_of_memory(error):
            raise
        make_room()
        notice = f"Memory does not hold {NUM_SAMPLES} samples at once: whether a sample's result depends on others was not tried."
        trial.findings.notices[:] = [notice]
    finally:
        trial.passes.end()


def _refuse_coupled(trial: Trial, plan: TrainPlan) -> None:
    passes, train = trial.passes, trial.train
    if len(train.labels) < NUM_SAMPLES:
        _about_modes(trial, is_steady=False)
        return
    rounding = tolerance(passes.spec, passes.model)
    # Where batch-norm's groups are whole batches nothing is ever split: samples may look at each other.
    is_split = plan.span is None or max(batch.size for batch in plan.kinds_of_batch()) > plan.span
    is_random = is_split and refuse_coupled_training(passes, train, trial.others, rounding)
    draws = is_split and (refuse_coupled_dropout(passes, train, is_random, rounding) or is_random)
    if draws and not _steps_are_passes(plan):
        trial.findings.notices.append(DRAWS)
    refuse_coupled_evaluation(passes, train, trial.others, rounding)
    _about_modes(trial, is_steady=is_split and not is_random)


def _try_sizes(trial: Trial, plan: TrainPlan) -> None:
    for size in _few_at_once(plan):
        try:
            trial.passes.training(trial.train.rows(0, size))
        except PlanError as error:
            raise PlanError(error.field, error.problem, f"{error.hint} {_how_to_avoid(plan, size)}") from error
    if trial.passes.evaluates_together:  # no piece is that small
        return
    for part, num_samples in ((trial.train, plan.num_train_samples), (trial.test, trial.num_test_samples)):
        for size in _few_evaluated(plan, num_samples):
            trial.passes.evaluation(part.inputs[:size])


def _few_at_once(plan: TrainPlan) -> list[int]:
    """Sizes of micro-batches that the run will have, below what was tried."""
    kinds = plan.kinds_of_batch()
    sizes = {size for rank in range(plan.world_size) for size in micro_batch_sizes(plan, kinds, plan.micro_batch_size, rank)}
    return sorted(size for size in sizes if 0 < size < NUM_SAMPLES)


def _few_evaluated(plan: TrainPlan, num_samples: int) -> list[int]:
    """Sizes of the last pieces that evaluation will have, below what was tried."""
    at_once = samples_at_once(plan.micro_batch_size)
    bounds = [num_samples * rank // plan.world_size for rank in range(plan.world_size + 1)]
    shares = [stop - start for start, stop in pairwise(bounds)]
    return sorted({share % at_once for share in shares} & set(range(1, NUM_SAMPLES)))


def _how_to_avoid(plan: TrainPlan, size: int) -> str:
    if (plan.num_train_samples % plan.global_batch_size) % plan.micro_batch_size == size and plan.spec.batch.last == "keep":
        return "Only an epoch's last batch leaves so few: batch.last=drop would avoid it, too."
    return ""


def _steps_are_passes(plan: TrainPlan) -> bool:
    """Whether no step is shared or split."""
    at_least = 2 if plan.noise_every_steps else 1
    return plan.world_size == 1 and all(len(batch.split(plan.micro_batch_size, plan.unit, at_least)) == 1 for batch in plan.kinds_of_batch())


def _one_pass(plan: TrainPlan) -> str:
    return f"Take each batch in one pass: one process, batch.micro_batch_size={plan.global_batch_size}, gradient.noise_every_steps=0."


def _sort_buffers(trial: Trial, before: dict[str, Tensor], model: nn.Module) -> None:
    """Tell buffers that every pass in training moves from those that keep something of its samples. Raises: PlanError for other shapes."""
    num_samples = len(trial.train.labels)
    after = _buffers(model)
    for name in {**before, **after}:
        if name not in before or name not in after or before[name].shape != after[name].shape:
            shapes = [str(tuple(buffers[name].shape)) if name in buffers else "not there" for buffers in (before, after)]
            raise PlanError(
                "model",
                f"its buffer {name} takes another shape with the batch ({shapes[0]} before a pass of {num_samples} samples, {shapes[1]} after it):"
                " what it keeps of them would depend on how the batch is split.",
                "Keep nothing of the samples from pass to pass, or keep it in one shape.",
            )
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    if not moved:
        return
    trial.passes.training(trial.train.rows(num_samples // 2, num_samples))
    again = _buffers(model)
    for name in moved:
        (trial.findings.once_a_step if torch.equal(after[name], again[name]) else trial.findings.by_samples).append(name)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers but the running statistics of torch's norms, which have rules of their own."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer.clone()
        for prefix, module in model.named_modules()
        if not isinstance(module, GhostNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }


def _about_modes(trial: Trial, is_steady: bool) -> None:
    """Note what is odd about the logits of the same samples in the two modes.

    Args: is_steady: whether a pass in training is known not to be random, and samples not to look at each other.
    Raises: PlanError where they are probabilities in evaluation alone: accuracy would be right, the test loss would not.
    """
    training, evaluation = trial.passes.training(trial.train).logits, trial.passes.evaluation(trial.train.inputs)
    if training.shape[1] < 2:
        return
    if _are_probabilities(evaluation):
        if not _are_probabilities(training):
            raise _other_loss("gives probabilities in evaluation (rows that add up to 1) and logits in training")
        trial.findings.notices.append("The model gives probabilities, not logits: the loss takes a softmax of its own, so two are at work.")
    elif is_steady and not _has_modes(trial) and difference([training], [evaluation]) > CERTAIN:
        if difference([training.sigmoid()], [evaluation]) < CERTAIN:
            raise _other_loss("gives the sigmoid of its logits in evaluation")
        trial.findings.notices.append(
            "The model gives other logits in evaluation than in training for the same samples, though nothing in it is random or normalises."
        )


def _other_loss(problem: str) -> PlanError:
    return PlanError("model", f"{problem}: the test loss would be of another quantity.", "Give logits in both; the loss takes the softmax itself.")


def _has_modes(trial: Trial) -> bool:
    """Whether something known gives other numbers in training: dropout, norms, what moves with each pass."""
    passes, findings = trial.passes, trial.findings
    return passes.has_norms or bool(sample_dropouts(passes.model) or findings.once_a_step or findings.by_samples)


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.float().sum(1)
    return bool((outputs >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3 if outputs.dtype.itemsize >= 4 else 2e-2))
