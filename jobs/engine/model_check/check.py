"""Tries a person's own model on a few real samples before training; the model is left as it was.

Everything that the engine takes for granted is tried: outputs that the task can use, in training and in evaluation, of every number of
samples that the plan reads; and that a sample's outputs and gradient are its own, for on that stands the exact global batch.
docs/decisions/021 and 071 say what is refused, and why.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from largebatch.jobs.data.loaders import first_samples
from largebatch.jobs.engine.evaluation.forward import samples_at_once
from largebatch.jobs.engine.model_check.draws import drawing_parts, draws_in_words, refuse_draws_from_elsewhere
from largebatch.jobs.engine.model_check.dropout import refuse_coupled_dropout
from largebatch.jobs.engine.model_check.independence import CERTAIN, refuse_coupled_evaluation, refuse_coupled_training
from largebatch.jobs.engine.model_check.kept.carried_state import (
    Findings,
    find_moved_buffers,
    find_moved_weights,
    find_read_statistics,
    refuse_moving_numbers,
)
from largebatch.jobs.engine.model_check.kept.unregistered import refuse_unregistered
from largebatch.jobs.engine.model_check.norms import refuse_mixed_groups
from largebatch.jobs.engine.model_check.own_task import (
    refuse_coupled_preparation,
    refuse_no_scores,
    refuse_no_sums,
    refuse_odd_blocks,
    refuse_odd_weights,
)
from largebatch.jobs.engine.model_check.passes import Passes, difference
from largebatch.jobs.engine.model_check.token_models import refuse_foresight, refuse_small_vocabulary
from largebatch.jobs.engine.model_state import refuse_unsaveable
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.engine.warm_up import micro_batch_sizes
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit
from largebatch.jobs.models.sample_dropout import sample_dropouts
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, cut_sequences, map_leaves, num_samples, rows
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.classification import Classification
from largebatch.jobs.tasks.contrastive import CoupledTask
from largebatch.jobs.tasks.language_modelling import LanguageModelling
from largebatch.jobs.tasks.registry import OwnTaskConfig

NUM_SAMPLES = 8
"""Samples that pass through together; as many others take their places."""
MOST_WEIGHED = 2**14
"""Samples of a part that are read in search of one that counts."""


class ModelCheck(NamedTuple):
    """A model with the samples that it is tried on, and what was found."""

    passes: Passes
    train: Tree
    others: Tree
    """Samples that take the places of some of them."""
    test: Tree
    num_evaluated_samples: tuple[int, ...]
    """Of each part that is evaluated: the test set, and a validation part where there is one."""
    findings: Findings


def check_model(spec: TrainSpec, model: nn.Module, task: Task, dataset: Dataset, device: torch.device) -> ModelCheck:
    """Passes a few samples through, in training and in evaluation. Raises: PlanError; DataError for samples that cannot be read."""
    is_own = isinstance(spec.task, OwnTaskConfig)

    def prepared(part: Any, number: int, start: int = 0) -> Tree:
        samples = first_samples(part, dataset, number, device, spec.model.channels_last, start)
        if is_own and not start:
            refuse_coupled_preparation(task, samples, spec.seed, device)
        return task.prepared(samples, spec.seed, Slice(0, start, start + num_samples(samples)), device)

    first, test = prepared(dataset.train, 2 * NUM_SAMPLES), prepared(dataset.test, NUM_SAMPLES)
    train, others = rows(first, 0, NUM_SAMPLES), rows(first, NUM_SAMPLES, 2 * NUM_SAMPLES)
    if num_samples(others) < NUM_SAMPLES:
        others = map_leaves(lambda leaf: leaf.flip(0), train)
    refuse_unsaveable(model)
    evaluated = tuple(len(part) for part in dataset.parts.values() if part is not dataset.train)
    check = ModelCheck(Passes(spec, model, task), train, others, test, evaluated, Findings())
    with _leaves_no_trace(check):
        if is_own:
            refuse_odd_weights(task, train)
        if not task.counts_samples:
            for kind, part in dataset.parts.items():
                if part is not dataset.train:  # a first step tells of it
                    _refuse_weightless(task, kind, len(part), partial(prepared, part))
        if isinstance(task, LanguageModelling):
            refuse_small_vocabulary(check.passes, train, dataset.for_model.get("vocabulary_size"))
        find_moved_buffers(check.passes, train, check.findings)
        refuse_moving_numbers(check.passes, train)
        refuse_unregistered(check.passes, train)
        check.passes.evaluation(test)
        if type(task) is LanguageModelling:
            refuse_foresight(check.passes, train)
        if is_own and isinstance(task, CoupledTask):  # its scores are of a whole part
            refuse_odd_blocks(task, check.passes, train)
        elif is_own:
            refuse_no_scores(check.passes, test)
        find_read_statistics(check.passes, train, check.findings)
        find_moved_weights(check.passes, train, check.findings)
        if spec.batch.schedule.short_sequences:
            check.passes.training(cut_sequences(train, spec.batch.schedule.short_sequences.length))
    return check


def _refuse_weightless(task: Task, kind: str, size: int, prepared: Callable[[int, int], Tree]) -> None:
    """Raise PlanError for a part none of whose samples counts: a mean over it divides by their weight.

    Args: prepared: so many of its samples from a number on. Of a long part the first ones are looked at; an evaluation tells of others.
    """
    start, number = 0, NUM_SAMPLES
    while start < min(size, MOST_WEIGHED):
        if float(task.weight(prepared(number, start))) != 0:  # what is no weight at all is told of by itself
            return
        start, number = start + number, 2 * number
    if start >= size:
        hint = (
            "Give some of them a target that counts; -100 marks one that does not." if isinstance(task, LanguageModelling) else "Give some a weight."
        )
        raise PlanError("dataset", f"its {size:,} {kind} samples weigh 0 together, and the mean loss divides by that.", hint)


def refuse_unfit(check: ModelCheck, plan: TrainPlan) -> None:
    """Raise PlanError for what this plan asks of the model and it cannot do: splitting a batch, few samples at once, several workers."""
    findings = check.findings
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
    with _leaves_no_trace(check):
        if _splits_groups(plan):
            refuse_mixed_groups(check.passes.model, check.train, check.passes.task.probe, findings.once_a_step)
        _refuse_coupled(check, plan)
        if isinstance(plan.spec.task, OwnTaskConfig) and not isinstance(check.passes.task, CoupledTask):
            refuse_no_sums(check.passes, check.test)
        _try_sizes(check, plan)
    if findings.by_samples and not _steps_are_passes(plan):
        raise PlanError(
            "model",
            f"{findings.by_samples[0]} keeps something of the samples that pass through in training, which depends on how a batch is split.",
            _one_pass(plan),
        )


@contextmanager
def _leaves_no_trace(check: ModelCheck) -> Iterator[None]:
    """Context of passes that leave no trace; where memory ends them, a notice says what was not tried."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not ran_out_of_memory(error):
            raise
        make_room()
        notice = f"Memory does not hold {NUM_SAMPLES} samples at once: whether a sample's result depends on others was not tried."
        check.findings.notices[:] = [notice]
    finally:
        check.passes.end()


def _refuse_coupled(check: ModelCheck, plan: TrainPlan) -> None:
    passes, train = check.passes, check.train
    if num_samples(train) < NUM_SAMPLES:
        _about_modes(check, is_steady=False)
        return
    check.findings.notices.extend(refuse_draws_from_elsewhere(passes, train))
    # Where batch-norm's groups are whole batches nothing is ever split: samples may look at each other.
    is_split = plan.span is None or _splits_groups(plan)
    is_random = is_split and refuse_coupled_training(passes, train, check.others)
    without_samples = refuse_coupled_dropout(passes, train, is_random) if is_split else []
    if (is_random or without_samples) and not _steps_are_passes(plan):
        check.findings.notices.append(draws_in_words([*without_samples, *(drawing_parts(passes, train) if is_random else [])]))
    refuse_coupled_evaluation(passes, train, check.others)
    _about_modes(check, is_steady=is_split and not is_random)


def _try_sizes(check: ModelCheck, plan: TrainPlan) -> None:
    """Try the sizes of micro-batches, and of the last pieces of evaluation, that the run will have below what was tried."""
    kinds, few = plan.kinds_of_batch(), set(range(1, NUM_SAMPLES))
    sizes = {size for rank in range(plan.world_size) for size in micro_batch_sizes(plan, kinds, plan.micro_batch_size, rank)}
    for size in sorted(sizes & few):
        try:
            check.passes.training(rows(check.train, 0, size))
        except PlanError as error:
            is_last = (plan.num_train_samples % plan.global_batch_size) % plan.micro_batch_size == size and plan.spec.batch.last == "keep"
            way_out = " Only an epoch's last batch leaves so few: batch.last=drop would avoid it, too." if is_last else ""
            raise PlanError(error.field, error.problem, f"{error.hint}{way_out}") from error
    if evaluation_unit(check.passes.model) > 1:  # no piece is that small
        return
    for part, total in ((check.train, plan.num_train_samples), *((check.test, number) for number in check.num_evaluated_samples)):
        shares = {total // plan.world_size, -(-total // plan.world_size)}
        for size in sorted({share % samples_at_once(plan.micro_batch_size) for share in shares} & few):
            check.passes.evaluation(rows(part, 0, size))


def _splits_groups(plan: TrainPlan) -> bool:
    """Whether some batch has several batch-norm groups."""
    return plan.span is not None and max(batch.size for batch in plan.kinds_of_batch()) > plan.span


def _steps_are_passes(plan: TrainPlan) -> bool:
    """Whether no step is shared or split."""
    at_least = 2 if plan.cut_every_steps else 1
    return plan.world_size == 1 and all(len(batch.split(plan.micro_batch_size, plan.unit, at_least)) == 1 for batch in plan.kinds_of_batch())


def _one_pass(plan: TrainPlan) -> str:
    return f"Take each batch in one pass: one process, batch.micro_batch_size={plan.global_batch_size}, gradient.noise_every_steps=0."


def _about_modes(check: ModelCheck, is_steady: bool) -> None:
    """Note what is odd about the logits of the same samples in the two modes.

    Args: is_steady: whether a pass in training is known not to be random, and samples not to look at each other.
    Raises: PlanError where they are probabilities in evaluation alone: accuracy would be right, the test loss would not.
    """
    passes, findings = check.passes, check.findings
    if not isinstance(passes.task, Classification):
        return
    training, evaluation = passes.training(check.train).outputs, passes.evaluation(check.train)
    if training.shape[1] < 2:
        return
    # Dropout, norms and what moves with each pass may give other numbers in training.
    has_modes = passes.has_norms or bool(sample_dropouts(passes.model) or findings.once_a_step or findings.by_samples)
    if _are_probabilities(evaluation):
        if not _are_probabilities(training):
            raise _other_loss("gives probabilities in evaluation (rows that add up to 1) and logits in training")
        findings.notices.append("The model gives probabilities, not logits: the loss takes a softmax of its own, so two are at work.")
    elif is_steady and not has_modes and difference([training], [evaluation]) > CERTAIN:
        if difference([training.sigmoid()], [evaluation]) < CERTAIN:
            raise _other_loss("gives the sigmoid of its logits in evaluation")
        findings.notices.append(
            "The model gives other logits in evaluation than in training for the same samples, though nothing in it is random or normalises."
        )


def _other_loss(problem: str) -> PlanError:
    return PlanError("model", f"{problem}: the test loss would be of another quantity.", "Give logits in both; the loss takes the softmax itself.")


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.float().sum(1)
    return bool((outputs >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3 if outputs.dtype.itemsize >= 4 else 2e-2))
