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
from largebatch.jobs.models.held import Held
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, evaluation_unit, forward_pass_of, ghost_norms
from largebatch.jobs.models.norms.settings import Settings, refuse_change, settings_of
from largebatch.jobs.models.parameters import refuse_sparse_gradients
from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts, set_dropout_keys
from largebatch.jobs.models.training_mode import evaluation_mode
from largebatch.jobs.models.without_gradient import without_gradient
from largebatch.jobs.plan.step_plan import Slice
from largebatch.jobs.spec.train_spec import TrainSpec

GROUP = 4
"""Samples that share batch-norm's statistics in these passes."""


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


class Move(NamedTuple):
    """The values of a weight before and after some forward passes, in host memory."""

    before: Tensor
    after: Tensor


class Passes:
    """Passes through a model that begin from one and the same state of it.

    Args: num_classes: logits that each sample must have.
    """

    def __init__(self, spec: TrainSpec, model: nn.Module, num_classes: int) -> None:
        self.spec, self.model, self._num_classes = spec, model, num_classes
        self._device, self._forward_pass = next(model.parameters()).device, forward_pass_of(model)
        self._span = self._forward_pass.span
        self.has_norms = bool(ghost_norms(model))
        """Whether statistics are taken over some samples together."""
        self.evaluates_together = evaluation_unit(model) > 1
        """Whether that is so in evaluation, too."""
        self.held = Held(model, weights=True)
        self._settings: dict[nn.Module, Settings] = {}

    def training(self, samples: Samples, seed: int = 0, change: Callable[[], None] = lambda: None) -> TrainingPass:
        """A pass in training, its loss summed over the samples; known dropouts, whose masks belong to the sample, let everything through.

        Args: change: changes the model before it.
        """
        self._begin(seed)
        change()
        return self._training(samples)

    def _training(self, samples: Samples) -> TrainingPass:
        logits: list[Tensor] = []

        def forward(inputs: Tensor) -> Tensor:
            logits.append(self._logits(inputs, "training"))
            return logits[0]

        with errors_in_words(samples.inputs, "training"):
            with before_each_run(ghost_norms(self.model), self._refuse_changed_settings), _only(self.model, ()):
                loss = batch_loss(forward, self.spec, *samples)
                self._forward_pass.end()
                loss.backward()  # type: ignore[no-untyped-call]
            refuse_sparse_gradients(self.model)
        params = [param for param in self.model.parameters() if param.requires_grad]
        gradient = [torch.zeros_like(param) if param.grad is None else param.grad for param in params]
        return TrainingPass(logits[0].detach(), [tensor.detach().clone() for tensor in gradient])

    def dropping(self, samples: Samples, start: int, stop: int, dropouts: Sequence[SampleDropout]) -> Tensor:
        """Logits in training of some of the samples, where these drop, by each sample's place among all."""
        self._begin(0)
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

    def _refuse_changed_settings(self, norm: GhostNorm, _: object) -> None:
        """Every run of a norm in training must have the settings of its first; a `forward` may set them, to the same."""
        refuse_change([norm], [self._settings.setdefault(norm, settings_of(norm))])

    def evaluation(self, inputs: Tensor, seed: int = 0) -> Tensor:
        """Logits of a pass in evaluation mode."""
        self._begin(seed)
        return self._evaluation(inputs)

    @without_gradient()
    def _evaluation(self, inputs: Tensor) -> Tensor:
        with errors_in_words(inputs, "evaluation"), evaluation_mode(self.model), self._autocast():
            return self._logits(inputs, "evaluation")

    def moved_weights(self, pieces: Sequence[Samples], mode: str) -> dict[str, Move]:
        """Weights that forward passes of several pieces, one after another, move, and from where to where.

        Args: mode: "training" or "evaluation".
        """
        self._begin(0)
        self._update_weights()
        held = Held(self.model, weights=True)
        for piece in pieces:
            if mode == "training":
                self._training(piece)
            else:
                self._evaluation(piece.inputs)
        names = held.changed_weights()
        after = self._weights(names)
        self.end()
        self._update_weights()
        return {name: Move(*values) for name, *values in zip(names, self._weights(names), after, strict=True)}

    def _weights(self, names: Sequence[str]) -> list[Tensor]:
        return [self.model.get_parameter(name).detach().to("cpu", copy=True) for name in names]

    @torch.no_grad()
    def _update_weights(self) -> None:
        """Change the weights, as an update will: a copy that follows them moves only then."""
        params = [param for param in self.model.parameters() if param.requires_grad]
        for number, param in enumerate(params):
            param.mul_(1.25 + 0.25 * number / len(params))  # not all by the same, for what follows may be trainable, too

    def end(self) -> None:
        """Leave no trace of the passes."""
        self.held.put_back()
        self._forward_pass.forget()
        self._forward_pass.span = self._span
        for param in self.model.parameters():
            param.grad = None

    def _begin(self, seed: int) -> None:
        self.end()
        if self._span is not None:
            self._forward_pass.span = GROUP
        seed_draws(key("trial", seed), self._device)

    def _logits(self, inputs: Tensor, mode: str) -> Tensor:
        """The logits of a forward pass. Raises: PlanError if the output is not a logit for each sample and class."""
        self._forward_pass.begin(len(inputs))
        output: Any = self.model(inputs.clone())  # some models change their inputs
        shape = (len(inputs), self._num_classes)
        if isinstance(output, Tensor) and tuple(output.shape) == shape and output.is_floating_point():
            return output
        raise PlanError("model", *misfit(output, inputs, self._num_classes, mode))


@contextmanager
def errors_in_words(inputs: Tensor, mode: str) -> Iterator[None]:
    """Context of a pass whose errors become a PlanError; memory that ran out, and errors in words already, stay what they are."""
    try:
        yield
    except ANYTHING as error:  # a person's own model may raise anything
        if isinstance(error, LargebatchError) or ran_out_of_memory(error):
            raise
        raise PlanError("model", *failure(error, inputs, mode)) from error


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


def misfit(output: Any, inputs: Tensor, num_classes: int, mode: str) -> tuple[str, str]:
    """(Problem, hint) where a model gives something else than logits."""
    shape = (len(inputs), num_classes)
    form = type(output).__name__
    if isinstance(output, Tensor):
        form = f"{tuple(output.shape)}" if output.is_floating_point() else f"{tuple(output.shape)} {_dtype(output)}"
    hint = f"It must give logits (samples, classes), here {shape}, in training and in evaluation."
    if any(name.startswith("aux_logits") for name in getattr(output, "_fields", ())):  # torchvision's googlenet and inception_v3
        hint = "Turn its auxiliary outputs off: --set model.arguments.aux_logits=false --set model.arguments.init_weights=true."
    return f"gives {form} for {in_words(inputs)} in {mode}.", f"{hint}{_about_one(inputs)}"


def failure(error: BaseException, inputs: Tensor, mode: str) -> tuple[str, str]:
    """(Problem, hint) where a model raises something."""
    return f"cannot take {in_words(inputs)} in {mode}: {described(error)}.", f"{_remedy(str(error), inputs)}{_about_one(inputs)}"


def _remedy(message: str, inputs: Tensor) -> str:
    """The remedy for an error of torch's own, by its words."""
    if "does not require grad" in message:
        return "Its logits must depend on its weights with a gradient: without torch.no_grad() and .detach() on the way."
    if "backward through the graph a second time" in message or "modified by an inplace operation" in message:
        return "Keep nothing of an earlier pass with its gradient (.detach() what is kept), and change nothing in place that the backward pass needs."
    if any(words in message for words in ("dtype", "scalar type", "should be the same")):
        return f"Bring both to one type: .float() of the model, and of the samples ({_dtype(inputs)}); precision: bfloat16 computes in 16 bits."
    return "Choose a model for such samples, or change the samples."


def in_words(inputs: Tensor) -> str:
    """The number, shape and type of samples, in words."""
    return f"{len(inputs)} sample{'s' if len(inputs) > 1 else ''} of shape {tuple(inputs.shape[1:])}, {_dtype(inputs)},"


def _about_one(inputs: Tensor) -> str:
    return " A squeeze() without a dimension drops that of the samples." if len(inputs) == 1 else ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
