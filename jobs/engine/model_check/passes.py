"""Passes a few samples through a person's own model, and says in words what is wrong with what it gives or raises."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from largebatch.jobs.data.keyed_random import key, seed_draws
from largebatch.jobs.engine.accumulate import batch_loss
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import LargebatchError, PlanError
from largebatch.jobs.models.modes import evaluation_mode, without_gradient
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, forward_pass_of, ghost_norms, refuse_change, settings_of
from largebatch.jobs.models.parameters import refuse_sparse_gradients
from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts, set_dropout_keys
from largebatch.jobs.models.snapshot import Snapshot
from largebatch.jobs.plan.step_plan import Slice
from largebatch.jobs.spec.train_spec import TrainSpec

GROUP = 4
"""Samples that share batch-norm's statistics in these passes."""
ROUNDING = 1e-4
"""Of all logits, or of the gradient, in float32: a thousand times what another order of the arithmetic makes of them."""
COARSE_ROUNDING = 5e-2
"""The same where fewer digits are computed: bfloat16, float16, TF32."""


class Samples(NamedTuple):
    """Inputs (n, ...) and labels (n,) on the device."""

    inputs: Tensor
    labels: Tensor

    def rows(self, start: int, stop: int) -> "Samples":
        """Some of the samples."""
        return Samples(self.inputs[start:stop], self.labels[start:stop])

    def halves(self) -> "list[Samples]":
        """The samples in two parts, the second the larger by one where their number is odd."""
        middle = len(self.labels) // 2
        return [self.rows(0, middle), self.rows(middle, len(self.labels))]


class TrainingPass(NamedTuple):
    """The logits and the gradient of a forward and a backward pass."""

    logits: Tensor
    gradient: list[Tensor]


class Passes:
    """Passes through a model that begin from one and the same state of it, or go on from what the last one left.

    Args: num_classes: logits that each sample must have.
    """

    def __init__(self, spec: TrainSpec, model: nn.Module, num_classes: int) -> None:
        self.spec, self.model, self._num_classes = spec, model, num_classes
        self._device, self._forward_pass = next(model.parameters()).device, forward_pass_of(model)
        self._span = self._forward_pass.span
        self.has_norms = bool(ghost_norms(model))
        """Whether statistics are taken over some samples together."""
        is_exact = spec.precision == "float32" and all(param.is_cpu and param.dtype.itemsize >= 4 for param in model.parameters())
        self.rounding = ROUNDING if is_exact else COARSE_ROUNDING
        """How far apart the same numbers may be when they are computed in another order."""
        self._snapshot = Snapshot(model)
        self._settings: dict[nn.Module, dict[str, Any]] = {}

    def begin(self, seed: int = 0) -> None:
        """Put the model and torch's generators back to where passes begin."""
        self.end()
        if self._span is not None:
            self._forward_pass.span = GROUP
        seed_draws(key("model check", seed), self._device)

    def end(self) -> None:
        """Leave no trace of the passes."""
        self._snapshot.restore()
        self._forward_pass.forget()
        self._forward_pass.span = self._span
        for param in self.model.parameters():
            param.grad = None

    def training(self, samples: Samples, seed: int | None = 0) -> TrainingPass:
        """A pass in training, its loss summed over the samples; known dropouts, whose masks belong to the sample, let everything through.

        Args: seed: of torch's generators; None: go on from what the last pass left.
        """
        if seed is not None:
            self.begin(seed)
        logits: list[Tensor] = []

        def refuse_changed_settings(norm: GhostNorm, _: object) -> None:
            """Every run of a norm in training must have the settings of its first; a `forward` may set them, to the same."""
            refuse_change(norm, self._settings.setdefault(norm, settings_of(norm)))

        def forward(inputs: Tensor) -> Tensor:
            logits.append(self._logits(inputs, "training"))
            return logits[0]

        with errors_in_words(samples.inputs, "training"):
            with before_each_run(ghost_norms(self.model), refuse_changed_settings), _only(self.model, ()):
                loss = batch_loss(forward, self.spec, *samples)
                self._forward_pass.end()
                loss.backward()  # type: ignore[no-untyped-call]
            refuse_sparse_gradients(self.model)
        params = [param for param in self.model.parameters() if param.requires_grad]
        gradient = [torch.zeros_like(param) if param.grad is None else param.grad for param in params]
        return TrainingPass(logits[0].detach(), [tensor.detach().clone() for tensor in gradient])

    def dropping(self, samples: Samples, start: int, stop: int, dropouts: Sequence[SampleDropout]) -> Tensor:
        """Logits in training of some of the samples, where these drop, by each sample's place among all."""
        self.begin()
        inputs = samples.inputs[start:stop]
        set_dropout_keys(dropouts, 0, Slice(0, start, stop), self._device)
        try:
            with errors_in_words(inputs, "training"), _only(self.model, dropouts), self._autocast():
                return self._logits(inputs, "training").detach()
        finally:
            for dropout in dropouts:
                dropout.set_keys(None)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16")

    @without_gradient()
    def evaluation(self, inputs: Tensor, seed: int | None = 0) -> Tensor:
        """Logits of a pass in evaluation mode. Args: seed: see `training`."""
        if seed is not None:
            self.begin(seed)
        with errors_in_words(inputs, "evaluation"), evaluation_mode(self.model), self._autocast():
            return self._logits(inputs, "evaluation")

    def _logits(self, inputs: Tensor, mode: str) -> Tensor:
        self._forward_pass.begin(len(inputs))
        return logits_of(self.model(inputs.clone()), inputs, self._num_classes, mode)  # some models change their inputs


@contextmanager
def errors_in_words(inputs: Tensor, mode: str) -> Iterator[None]:
    """Context of a pass whose errors become a PlanError; memory that ran out, and errors in words already, stay what they are."""
    try:
        yield
    except ANYTHING as error:  # a person's own model may raise anything
        if isinstance(error, LargebatchError) or ran_out_of_memory(error):
            raise
        raise failure(error, inputs, mode) from error


@contextmanager
def before_each_run(modules: Iterable[nn.Module], look: Callable[[Any, tuple[Tensor, ...]], None]) -> Iterator[None]:
    """Context in which `look` gets each module with its arguments before every run of it."""
    hooks = [module.register_forward_pre_hook(look) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


def logits_of(output: Any, inputs: Tensor, num_classes: int, mode: str) -> Tensor:
    """A model's output, if it is a logit for each sample and class. Raises: PlanError."""
    shape = (len(inputs), num_classes)
    if isinstance(output, Tensor) and tuple(output.shape) == shape and output.is_floating_point():
        return output
    form = type(output).__name__
    if isinstance(output, Tensor):
        form = f"{tuple(output.shape)}" if output.is_floating_point() else f"{tuple(output.shape)} {_dtype(output)}"
    hint = f"It must give logits (samples, classes), here {shape}, in training and in evaluation."
    if any(name.startswith("aux_logits") for name in getattr(output, "_fields", ())):  # torchvision's googlenet and inception_v3
        hint = "Turn its auxiliary outputs off: --set model.arguments.aux_logits=false --set model.arguments.init_weights=true."
    raise PlanError("model", f"gives {form} for {_in_words(inputs)} in {mode}.", f"{hint}{_about_one(inputs)}")


def failure(error: BaseException, inputs: Tensor, mode: str) -> PlanError:
    """What to raise where a model raises something."""
    problem = f"cannot take {_in_words(inputs)} in {mode}: {described(error)}."
    return PlanError("model", problem, f"{_remedy(str(error), inputs)}{_about_one(inputs)}")


def _remedy(message: str, inputs: Tensor) -> str:
    """The remedy for an error of torch's own, by its words."""
    if "does not require grad" in message:
        return "Its logits must depend on its weights with a gradient: without torch.no_grad() and .detach() on the way."
    if "backward through the graph a second time" in message or "modified by an inplace operation" in message:
        return "Keep nothing of an earlier pass with its gradient (.detach() what is kept), and change nothing in place that the backward pass needs."
    if any(words in message for words in ("dtype", "scalar type", "should be the same")):
        return f"Bring both to one type: .float() of the model, and of the samples ({_dtype(inputs)}); precision: bfloat16 computes in 16 bits."
    return "Choose a model for such samples, or change the samples."


def _in_words(inputs: Tensor) -> str:
    """The number, shape and type of samples, in words."""
    return f"{len(inputs)} sample{'s' if len(inputs) > 1 else ''} of shape {tuple(inputs.shape[1:])}, {_dtype(inputs)},"


def _about_one(inputs: Tensor) -> str:
    return " A squeeze() without a dimension drops that of the samples." if len(inputs) == 1 else ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
