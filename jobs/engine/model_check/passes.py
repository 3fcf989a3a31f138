"""Passes a few samples through a person's own model, and says in words what is wrong with what it gives or raises."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.evaluation.evaluate import numbers_of
from largebatch.jobs.engine.evaluation.forward import sums_of
from largebatch.jobs.engine.gradient.precision import in_precision
from largebatch.jobs.engine.model_errors import errors_in_words
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.modes import evaluation_mode, without_gradient
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, Settings, forward_pass_of, ghost_norms, refuse_change, settings_of
from largebatch.jobs.models.parameters import refuse_sparse_gradients
from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts, set_dropout_keys
from largebatch.jobs.models.snapshot import Snapshot
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, dtype_name, map_leaves, num_samples, rows
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.contrastive import CoupledTask, Embeddings
from largebatch.jobs.tasks.outputs import tensors_of

GROUP = 4
"""Samples that share batch-norm's statistics in these passes."""
ROUNDING = 1e-4
"""Of all logits, or of the gradient, in float32: a thousand times what another order of the arithmetic makes of them."""
COARSE_ROUNDING = 5e-2
"""The same where fewer digits are computed: bfloat16, float16, TF32."""


MOST_NUMBERS = 2**17
"""Of what a model gives for a sample, how many are compared."""


class TrainingPass(NamedTuple):
    """What a forward and a backward pass gave."""

    outputs: Tensor
    """(n, numbers of all that the model gave for a sample)."""
    gradient: list[Tensor]
    probe: float
    """The task's own number: what the gradient is of."""


class Passes:
    """Passes through a model that begin from one and the same state of it, or go on from what the last one left.

    Args: task: which calls the model.
    """

    def __init__(self, spec: TrainSpec, model: nn.Module, task: Task) -> None:
        self.spec, self.model, self.task = spec, model, task
        self.device, self._forward_pass = next(model.parameters()).device, forward_pass_of(model)
        self._span = self._forward_pass.span
        self.has_norms = bool(ghost_norms(model))
        """Whether statistics are taken over some samples together."""
        is_exact = spec.precision == "float32" and all(param.is_cpu and param.dtype.itemsize >= 4 for param in model.parameters())
        self.rounding = ROUNDING if is_exact else COARSE_ROUNDING
        """How far apart the same numbers may be when they are computed in another order."""
        self.snapshot = Snapshot(model)
        """Of the model where passes begin."""
        self._settings: dict[nn.Module, Settings] = {}

    def begin(self, seed: int = 0) -> None:
        """Put the model and torch's generators back to where passes begin."""
        self.end()
        if self._span is not None:
            self._forward_pass.span = GROUP
        seed_draws(key("model check", seed), self.device)

    def end(self) -> None:
        """Leave no trace of the passes."""
        self.snapshot.restore()
        self._forward_pass.forget()
        self._forward_pass.span = self._span
        for param in self.model.parameters():
            param.grad = None

    def training(self, batch: Tree, seed: int | None = 0, scale: float = 1.0) -> TrainingPass:
        """A pass in training, its loss summed over the samples; known dropouts, whose masks belong to the sample, let everything through.

        Args:
            seed: of torch's generators; None: go on from what the last pass left.
            scale: what the loss is multiplied by before its backward pass, and the gradient divided by after it.
        """
        if seed is not None:
            self.begin(seed)

        def refuse_changed_settings(norm: GhostNorm, _: object) -> None:
            """Every run of a norm in training must have the settings of its first; a `forward` may set them, to the same."""
            refuse_change(norm, self._settings.setdefault(norm, settings_of(norm)))

        with errors_in_words(batch, "training", self.model, self.task):
            with before_each_run(ghost_norms(self.model), refuse_changed_settings), _only(self.model, ()):
                probe, outputs = self._forward(batch, "training")
                self._forward_pass.end()
                (probe * scale).backward()  # type: ignore[no-untyped-call]
            refuse_sparse_gradients(self.model)
        params = [param for _, param in self._trained()]
        if all(param.grad is None for param in params):
            raise PlanError(
                "task",
                "its loss reaches no weight of the model by a gradient: nothing would be trained.",
                "Compute it from the model's outputs, without .item(), .detach() or torch.tensor(...) on the way.",
            )
        gradient = [torch.zeros_like(param) if param.grad is None else param.grad for param in params]
        return TrainingPass(outputs, [tensor.detach() / scale for tensor in gradient], float(probe.detach()))

    def probed(self, batch: Tree) -> Tensor:
        """The task's number of a pass in training, with its graph."""
        self.begin()
        with errors_in_words(batch, "training", self.model, self.task), _only(self.model, ()):
            probe, _ = self._forward(batch, "training")
            self._forward_pass.end()
        return probe

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, param) for name, param in self.model.named_parameters() if param.requires_grad]

    def trained_names(self) -> list[str]:
        """What the gradients of a pass in training are of, in their order."""
        return [name for name, _ in self._trained()]

    def given(self, batch: Tree) -> list[Any]:
        """What the task is given by the model in a pass in training, call by call, as it is given it in a step."""
        self.begin()
        with errors_in_words(batch, "training", self.model, self.task), _only(self.model, ()):
            outputs = self._given(batch, self.task.probe)
            self._forward_pass.end()
        return outputs

    @without_gradient()
    def given_in_evaluation(self, batch: Tree) -> list[Any]:
        """The same of what its metrics are made of."""
        self.begin()
        with errors_in_words(batch, "evaluation", self.model, self.task), evaluation_mode(self.model):
            return self._given(batch, lambda forward, batch: sums_of(self.task, forward, batch, self.device))

    def embeddings(self, task: CoupledTask, batch: Tree) -> Embeddings:
        """What a task that couples samples makes of them in evaluation mode."""
        self.begin()
        with errors_in_words(batch, "evaluation", self.model, task), evaluation_mode(self.model), torch.no_grad():
            self._forward_pass.begin(num_samples(batch))
            return task.embed(in_precision(self.model, self.spec.precision, self.device), map_leaves(Tensor.clone, batch))

    def _given(self, batch: Tree, use: Callable[[Callable[..., Any], Tree], object]) -> list[Any]:
        """What `use` is given where it calls the model."""
        outputs: list[Any] = []
        forward = in_precision(self.model, self.spec.precision, self.device)

        def noted(*inputs: Any, **named: Any) -> Any:
            outputs.append(forward(*inputs, **named))
            return outputs[-1]

        self._forward_pass.begin(num_samples(batch))
        use(noted, map_leaves(Tensor.clone, batch))  # some models change their inputs
        return outputs

    def dropping(self, batch: Tree, start: int, stop: int, dropouts: Sequence[SampleDropout]) -> Tensor:
        """Outputs in training of some of the samples, where these drop, by each sample's place among all."""
        self.begin()
        part = rows(batch, start, stop)
        set_dropout_keys(dropouts, 0, Slice(0, start, stop), self.device)
        try:
            with errors_in_words(part, "training", self.model, self.task), _only(self.model, dropouts):
                return self._forward(part, "training")[1]
        finally:
            for dropout in dropouts:
                dropout.set_keys(None)

    @without_gradient()
    def evaluation(self, batch: Tree, seed: int | None = 0) -> Tensor:
        """Outputs of a pass in evaluation mode. Args: seed: see `training`."""
        if seed is not None:
            self.begin(seed)
        with errors_in_words(batch, "evaluation", self.model, self.task), evaluation_mode(self.model):
            return self._forward(batch, "evaluation")[1]

    @torch.no_grad()
    def metric_sums(self, batch: Tree) -> dict[str, float]:
        """The task's sums over some samples in evaluation, and what they weigh. Raises: whatever the task raises."""
        self.begin(0)
        with evaluation_mode(self.model):
            self._forward_pass.begin(num_samples(batch))
            forward = in_precision(self.model, self.spec.precision, self.device)
            sums = sums_of(self.task, forward, map_leaves(Tensor.clone, batch), self.device)  # some models change their inputs
        return numbers_of(sums)

    def _forward(self, batch: Tree, mode: str) -> tuple[Tensor, Tensor]:
        """(The task's number, all that the model gave for the samples)."""
        given: list[Tensor] = []
        num_calls, has_gradient = 0, False

        def recorded(*inputs: Any, **named: Any) -> Any:
            nonlocal num_calls, has_gradient
            num_calls += 1
            output = self.model(*inputs, **named)
            has_gradient |= any(tensor.requires_grad for tensor in tensors_of(output))
            self.task.refuse_output(output, batch, mode)
            given.extend(_thinned(tensor.detach().reshape(size, -1)) for tensor in tensors_of(output) if tensor.shape[:1] == (size,))
            return output

        size = num_samples(batch)
        self._forward_pass.begin(size)
        copied = map_leaves(Tensor.clone, batch)  # some models change their inputs
        with self._refusing_own_backward():
            probe = self.task.probe(in_precision(recorded, self.spec.precision, self.device), copied)
        refuse_no_sum(probe)
        if mode == "training" and torch.is_grad_enabled() and has_gradient and not probe.requires_grad:
            raise PlanError(
                "task",
                f"its loss has no gradient in {mode}, though what the model gives has one.",
                "Leave out torch.no_grad(), .detach(), .item() and .numpy() on its way; argmax and comparisons have no gradient.",
            )
        if not num_calls:
            raise PlanError(
                "task",
                f"its loss does not call the model that it is given, in {mode}: what it reaches by another way is not tried, and has not the run's"
                " precision, compile and micro-batches.",
                "Call model(...), its argument; what takes a part of it, or other weights, belongs into the model's forward.",
            )
        if not given:
            raise PlanError(
                "model", f"gives nothing with a row for each of {size} samples in {mode}.", "Dimension 0 of its output must be the samples."
            )
        return probe, torch.cat(given, dim=1)

    @contextmanager
    def _refusing_own_backward(self) -> Iterator[None]:
        """Context of a forward pass. Raises: PlanError where it adds to `.grad`, which is the step's: workers begin to sum it as it arrives."""
        reached: list[Tensor] = []
        with ExitStack() as hooks:
            for _, param in self._trained():
                hooks.enter_context(param.register_post_accumulate_grad_hook(reached.append))  # type: ignore[no-untyped-call]
            yield
        if reached:
            raise PlanError(
                "task",
                "its loss calls backward() itself, which adds to the weights' gradients: they would be counted in the step's.",
                "Take a gradient with torch.autograd.grad(value, inputs), which leaves nothing in .grad.",
            )


def _thinned(rows: Tensor) -> Tensor:
    """Every so many of each row's numbers where there are many, as a language model's logits are; in float32 at the least."""
    rows = rows[:, :: -(-rows.shape[1] // MOST_NUMBERS)]
    return rows.float() if rows.dtype.itemsize < 4 else rows


def refuse_no_sum(loss: Any) -> None:
    """Raise PlanError for a loss that is no single number."""
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.is_floating_point():
        return
    form = f"{tuple(loss.shape)} {dtype_name(loss)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise PlanError("task", f"its loss is {form}; it must be one floating-point number, the sum over the samples.", "End it with .sum().")


def difference(tensors: Sequence[Tensor], others: Sequence[Tensor], *scales: Sequence[Tensor]) -> float:
    """|a - b| over the largest norm of a, b and `scales`; 0 where one is not finite, which training will say."""
    norms = [_norm(numbers) for numbers in (tensors, others, *scales)]
    apart = _norm([tensor - other for tensor, other in zip(tensors, others, strict=True)])
    return apart / max(norms) if math.isfinite(sum(norms)) and max(norms) > 0.0 else 0.0


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.abs().double().square().sum()) for tensor in tensors))


@contextmanager
def before_each_run(modules: Iterable[nn.Module], look: Callable[[Any, tuple[Tensor, ...]], None]) -> Iterator[None]:
    """Context in which `look` gets each module with its arguments before every run of it."""
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(look))
        yield


@contextmanager
def _only(model: nn.Module, dropouts: Sequence[SampleDropout]) -> Iterator[None]:
    """Context in which none but the dropouts named drop."""
    others = [dropout for dropout in sample_dropouts(model) if dropout.training and dropout not in dropouts]
    for dropout in others:
        dropout.training = False
    try:
        yield
    finally:
        for dropout in others:
            dropout.training = True
