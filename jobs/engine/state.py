"""Everything that changes while training, and its form on disk."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.noise_scale import GainAverages, NoiseSums
from largebatch.jobs.engine.ranks.all_reduce import GradientSum, gradient_sum
from largebatch.jobs.engine.ranks.batch_norm_statistics import RunningStatistics
from largebatch.jobs.engine.ranks.local_sgd import LocalSteps
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts
from largebatch.jobs.optim.saved_state import load_optimizer, parameter_names, refuse_other_precision
from largebatch.jobs.plan.train_plan import Position
from largebatch.jobs.spec.train_spec import ReductionSpec

EVALUATION_BATCH = 1024
"""Samples that evaluation passes forward at once, where memory allows: beyond this it gets no faster."""


@dataclass
class Progress:
    """Where the run stands; plain numbers."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    offset: int = 0
    """Samples of this epoch that were used."""
    samples_seen: int = 0
    schedule_samples: float = 0.0
    """Progress of the schedules: samples seen, or what AdaScale's gain makes of them."""
    steps_to_accuracy: int | None = None
    time_to_accuracy_s: float | None = None
    test_accuracy: float | None = None
    best_test_accuracy: float | None = None

    @property
    def position(self) -> Position:
        """Where the next step's samples begin."""
        return Position(self.epoch, self.offset)


@dataclass
class TrainState:
    """Model, optimizer and progress of one run."""

    model: nn.Module
    """The module that holds the parameters (never a compiled wrapper)."""
    forward: Any
    """What is called on inputs: the model itself, or its compiled form."""
    optimizer: Optimizer
    clock: Clock
    micro_batch_size: int
    """In force now; halved when memory runs out."""
    evaluation_batch_size: int = EVALUATION_BATCH
    """Samples that evaluation passes forward at once, at most; halved when memory runs out."""
    average: "WeightAverage | None" = None
    once_a_step: Sequence[str] = ()
    """Buffers that every pass in training moves, whichever its samples: all passes of a step begin from the same."""
    by_samples: Sequence[str] = ()
    """Buffers that keep something of the samples that passed, and weights that every pass moves: with some, every step is one pass."""
    reduction: ReductionSpec = field(default_factory=ReductionSpec)
    progress: Progress = field(default_factory=Progress)
    noise: NoiseSums = field(default_factory=NoiseSums)
    gain: GainAverages = field(default_factory=GainAverages)
    saved_at_s: float = 0.0
    """The training clock at the newest checkpoint."""
    saved_at_step: int = 0
    ranks: Ranks = field(init=False)
    gradients: GradientSum = field(init=False)
    local: LocalSteps = field(init=False)
    dropouts: list[SampleDropout] = field(init=False)
    statistics: RunningStatistics = field(init=False)

    def __post_init__(self) -> None:
        self.ranks = Ranks(next(self.model.parameters()).device)
        self.gradients = gradient_sum(self.model, self.ranks, self.reduction)
        self.local = LocalSteps(self.model, self.optimizer, self.ranks, self.average.averages if self.average else [])
        self.dropouts = sample_dropouts(self.model)
        self.statistics = RunningStatistics(self.model, self.ranks)
        self._buffer_homes = [module._buffers for module in self.model.modules() if module._buffers]
        self._held: list[Tensor] = []
        self._held_shapes: list[torch.Size] = []
        names = {id(buffer): name for name, buffer in self.model.named_buffers()}
        self._once_a_step = [place for place, buffer in enumerate(self.buffers()) if names.get(id(buffer)) in set(self.once_a_step)]

    def buffers(self) -> list[Tensor]:
        """The model's buffers as they are now; torch's own walk through a model costs 1 % of a small step."""
        return [buffer for home in self._buffer_homes for buffer in home.values() if buffer is not None]

    def hold_buffers(self) -> list[Tensor]:
        """Copies of the model's buffers, in the order of `buffers`; the next call overwrites them."""
        buffers = self.buffers()
        shapes = [buffer.shape for buffer in buffers]
        if shapes and shapes == self._held_shapes:
            torch._foreach_copy_(self._held, buffers)
        else:
            self._held, self._held_shapes = [buffer.clone() for buffer in buffers], shapes
        return self._held

    def begin_pass(self) -> None:
        """Give the buffers that move once a step what they held as it began, before a step's second and further passes."""
        if self._once_a_step:
            buffers = self.buffers()
            for place in self._once_a_step:
                buffers[place].copy_(self._held[place])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, nothing else: loads with `weights_only`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "parameters": parameter_names(self.model, self.optimizer),
            "average": self.average.state_dict() if self.average else None,
            "progress": asdict(self.progress),
            "noise": asdict(self.noise),
            "gain": asdict(self.gain),
            "micro_batch_size": self.micro_batch_size,
            "training_s": self.clock.training_s,
            "evaluation_s": self.clock.evaluation_s,
            "wall_s": self.clock.wall_s,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take everything over from `state_dict`; the clock goes on from the seconds spent."""
        refuse_other_precision(self.model, saved["model"])
        self.model.load_state_dict(saved["model"])
        load_optimizer(self.optimizer, self.model, saved["optimizer"], saved.get("parameters"))
        if self.average:
            self.average.load_state_dict(saved["average"])
        self.progress = Progress(**saved["progress"])
        self.noise = NoiseSums(**saved["noise"])
        self.gain = GainAverages(**saved["gain"])
        self.micro_batch_size = saved["micro_batch_size"]
        self.clock.go_on_from(saved["training_s"], saved["evaluation_s"], saved["wall_s"])
        self.saved_at_s = saved["training_s"]
        self.saved_at_step = self.progress.step


class WeightAverage:
    """Exponential moving average of weights and running statistics, evaluated in place of the weights.

        average <- decay * average + (1 - decay) * weights,  once per optimizer step

    Args: decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._params = {name: param.detach() for name, param in model.named_parameters() if param.is_floating_point()}
        self._buffers = {name: _home(model, name) for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._names = [*self._params, *self._buffers]
        self.averages = [source.clone() for source in self._sources()]
        """In the model's order; always the same tensors."""

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now."""
        torch._foreach_lerp_(self.averages, self._sources(), 1.0 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; a second call undoes the first."""
        # All are held before any is overwritten: a buffer may be a view of a weight.
        sources = self._sources()
        held = [source.clone() for source in sources]
        torch._foreach_copy_(sources, self.averages)
        torch._foreach_copy_(self.averages, held)

    def _sources(self) -> list[Tensor]:
        """What is averaged, as it is now: some models put another tensor in a buffer's place."""
        return [*self._params.values(), *(getattr(module, name) for module, name in self._buffers.values())]

    def state_dict(self) -> dict[str, Any]:
        """The averages, in the model's order, and their names there."""
        return {"averages": self.averages, "names": self._names}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take the averages over. Raises: ValueError if they are another model's."""
        names = saved.get("names", self._names)  # versions that did not save them relied on the order
        values = dict(zip(names, saved["averages"], strict=True))
        for name, average in zip(self._names, self.averages, strict=True):
            if name not in values or values[name].shape != average.shape:
                raise ValueError(f"it has no average of {name}, of shape {tuple(average.shape)}")
            average.copy_(values[name])


def _home(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a buffer, and the buffer's name there."""
    prefix, _, own_name = name.rpartition(".")
    return model.get_submodule(prefix), own_name
