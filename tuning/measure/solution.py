"""A run's final weights as a function: the loss at any weights, its gradient, and its Hessian times a direction.

f is the task's mean loss on `num_samples` training samples, the same for every run, without augmentation and label smoothing, in evaluation mode: a
function of the weights alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from largebatch.jobs.data.same_data import refuse_other_data
from largebatch.jobs.data.sources.validation import some_samples
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.warm_up import activation_bytes_per_sample
from largebatch.jobs.errors import CheckpointError, FaultError, InputError, LargebatchError
from largebatch.jobs.job import prepare
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, evaluation_unit, ghost_norms
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.resume import load_newest
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.samples.sample_draws import EVALUATION
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree
from largebatch.jobs.tasks.classification import Classification
from largebatch.jobs.tasks.contrastive import CoupledTask
from largebatch.jobs.tasks.outputs import map_tensors
from largebatch.jobs.tracking.mlflow_store import brief
from largebatch.jobs.tracking.params import flat
from largebatch.tuning.results.run_result import part_in_words
from largebatch.tuning.sweep.space import with_fields

CHUNK = 1000
"""Samples that are passed forward at once, at most."""
PASS_BYTES = 2**28
"""What a forward pass may keep for the gradient; the second derivative keeps about four times as much."""
NUM_SAMPLES = 5000


@dataclass
class Solution:
    """A run's final weights, with its data."""

    name: str
    job: Prepared
    model: nn.Module
    """In evaluation mode, with the weights that are evaluated."""
    num_samples: int
    chunk: int = CHUNK
    """Samples at once, where a gradient is taken."""
    moving: list[GhostNorm] = field(default_factory=list)
    """Norms whose running statistics move in training."""

    @property
    def setting(self) -> str:
        """Model and data set in words."""
        fields = flat(self.job.spec.model_dump(mode="json"))
        return f"{part_in_words(fields, 'model')} on {part_in_words(fields, 'dataset')}"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that were trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def weights(self) -> Tensor:
        """All trained weights, flat."""
        return _flat(self.parameters)

    @torch.no_grad()
    def put(self, weights: Tensor) -> None:
        """Take other weights, flat; each parameter keeps its layout in memory, and what shares it goes along."""
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, torch.split(weights, sizes), strict=True):
            parameter.copy_(part.view(parameter.shape))

    def loss_and_gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        """F and its gradient, flat. Raises: InputError for a model without one in evaluation mode; FaultError."""
        with self.named("has no gradient in evaluation mode"), _twice_differentiable_rnn(self.model):
            self.put(weights)
            self.model.zero_grad()
            value = self._sum(lambda loss: loss.backward())  # type: ignore[no-untyped-call]
            return value, self._taken_gradient()

    def curvature(self, direction: Tensor) -> Tensor:
        """The Hessian of f at the weights in force, times a direction. Raises: InputError where torch has no second derivative; FaultError."""
        parameters = self.parameters
        directions = torch.split(direction, [parameter.numel() for parameter in parameters])

        def accumulate(loss: Tensor) -> None:
            gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            slopes = [
                (_dense(gradient) * part.view(gradient.shape).to(gradient)).sum()
                for gradient, part in zip(gradients, directions, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            if slopes:
                # Not `autograd.grad`, which leaves out in silence what was declared to be differentiable only once.
                torch.stack([slope.to(direction) for slope in slopes]).sum().backward()  # type: ignore[no-untyped-call]

        self.model.zero_grad()
        with self.named("has no second derivative"), sdpa_kernel(SDPBackend.MATH), _twice_differentiable_rnn(self.model):
            self._sum(accumulate)
            return self._taken_gradient()

    def _taken_gradient(self) -> Tensor:
        """What `backward` has left, taken away: zeros for what the loss does not depend on."""
        taken = _flat([torch.zeros_like(p) if p.grad is None else _dense(p.grad) for p in self.parameters])
        self.model.zero_grad()
        return taken

    def _sum(self, use: Callable[[Tensor], None]) -> float:
        total = 0.0
        for batch in self.chunks(self.chunk):
            loss = self._loss_sum(batch) / self.total_weight
            use(loss)
            total += float(loss.detach())
        return total

    def _loss_sum(self, batch: Tree) -> Tensor:
        """The loss summed over some samples; in float64, for what a hundred random directions change is a millionth of it."""

        def doubled(*inputs: Any, **named: Any) -> Any:
            return map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, self.model(*inputs, **named))

        task = self.job.task
        return task.plain_loss_sum(doubled, batch) if isinstance(task, Classification) else task.loss_sum(doubled, batch)

    @cached_property
    def total_weight(self) -> float:
        """What the samples weigh together."""
        task = self.job.task
        if task.counts_samples:
            return float(self.num_samples)
        return sum(float(task.weight(batch)) for batch in self.chunks(CHUNK))

    @cached_property
    def part(self) -> Any:
        """The samples that f is taken over."""
        return some_samples(self.job.dataset.train, self.num_samples)

    def chunks(self, size: int) -> Iterator[Tree]:
        """These samples, so many at a time, as the task prepares them."""
        batches, job = evaluation_batches(self.job, self.part), self.job
        for start in range(0, self.num_samples, size):
            samples = Slice(0, start, min(start + size, self.num_samples))
            yield job.task.prepared(batches.read(samples), job.spec.seed, samples._replace(epoch=EVALUATION), job.device)

    @contextmanager
    def named(self, problem: str) -> Iterator[None]:
        """What a person's model raises, as one sentence."""
        try:
            yield
        except LargebatchError:
            raise
        except Exception as error:
            if ran_out_of_memory(error):
                raise FaultError(self.name, f"memory runs out with {self.chunk} samples at once.", "Measure it where there is more.") from error
            raise InputError(self.name, f"the model {problem} ({type(error).__name__}: {brief(error).rstrip('.')}).") from error


def load_solution(run_dir: Path, device: torch.device, data_dir: Path, num_samples: int = NUM_SAMPLES) -> Solution:
    """A run's newest checkpoint as a function; weights of 16 bits as float32, for such small steps are lost in their rounding.

    Raises: CheckpointError for a folder without one, or of another model; InputError; DataError.
    """
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError("RUN", f"{run_dir} is not a run's folder: it has no {run_folder.SPEC}.", "Give the folder that the run printed.")
    spec = resumed_spec(run_dir, [])
    coupled = InputError(run_dir.name, "its loss looks at all samples of a batch together, and no part of it is a function that could be sharp.", "")
    if spec.task.name == "contrastive":
        raise coupled
    loaded = load_newest(run_dir / run_folder.CHECKPOINTS, device, lambda text: None)
    spec = with_fields(spec, {"model.activation_checkpointing": False})  # second derivatives need all that is computed
    job = prepare(spec, device, data_dir)
    if isinstance(job.task, CoupledTask):  # a person's own
        raise coupled
    refuse_other_data(job.dataset, job.fingerprint, run_dir, spec.dataset.may_change)
    state = new_state(job)
    try:
        state.load_state_dict(loaded["state"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError("model", f"{run_dir.name}'s checkpoint does not fit it: {brief(error)}.", "Restore the model's code.") from error
    if state.average:
        state.average.swap()
    for parameter in state.model.parameters():
        if parameter.is_complex():
            raise InputError(run_dir.name, "the model has complex weights, and sharpness is defined for real ones.", "Choose another run.")
        if parameter.dtype in {torch.float16, torch.bfloat16}:
            parameter.data = parameter.data.float()
    chunk = min(CHUNK, max(PASS_BYTES // activation_bytes_per_sample(spec, job.task, state.model, job.dataset), 1))
    unit = evaluation_unit(state.model)
    moving = [norm for norm in ghost_norms(state.model) if norm.moves_statistics]
    return Solution(run_dir.name, job, state.model.eval(), min(num_samples, len(job.dataset.train)), max(chunk // unit, 1) * unit, moving)


@contextmanager
def _twice_differentiable_rnn(model: nn.Module) -> Iterator[None]:
    """Recurrent layers by torch's own kernels: cuDNN's have no gradient in evaluation mode, and no second one at all."""
    has_rnn = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.backends.cudnn.flags(enabled=False) if has_rnn else contextlib.nullcontext():
        yield


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor


def _flat(tensors: list[Tensor] | list[nn.Parameter]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
