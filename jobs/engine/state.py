"""Everything that changes while training, and its form on disk."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.noise_scale import GainAverages, NoiseSums
from largebatch.jobs.engine.ranks.all_reduce import AllReduce
from largebatch.jobs.engine.ranks.buffers import Buffers
from largebatch.jobs.engine.ranks.local_sgd import LocalSGD
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.models.sample_dropout import SampleDropout
from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage
from largebatch.jobs.optim.averaging.weight_average import WeightAverage
from largebatch.jobs.optim.saved_state import load_optimizer, parameter_names, refuse_other_precision
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.run.records import by_todays_names
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.metric import Metric

EVALUATION_BATCH = 1024
"""Samples that evaluation passes forward at once, where memory allows: beyond this it gets no faster."""


MAPPINGS = {"model": (), "optimizer": ("state", "param_groups"), "progress": (), "noise": (), "gain": ()}
"""What every saved state has, and what of it must be there."""
NUMBERS = ("micro_batch_size", "training_s", "evaluation_s", "wall_s")


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
    steps_to_target: int | None = None
    time_to_target_s: float | None = None
    score: float | None = None
    """The headline metric at the last evaluation."""
    best_score: float | None = None
    evaluations_since_best: int = 0
    """In a row, without a better score; 0 in checkpoints of versions that did not count them."""

    @property
    def position(self) -> Position:
        """Where the next step begins."""
        return Position(self.epoch, self.offset, self.step, self.samples_seen, self.schedule_samples)

    def go_to(self, position: Position) -> None:
        """Take note of the steps up to a position."""
        self.epoch, self.offset, self.step, self.samples_seen, self.schedule_samples = position


class TrainingSamples(NamedTuple):
    """Training samples that evaluations pass forward besides, without random changes."""

    batches: Batches
    num_samples: int


@dataclass(eq=False, kw_only=True)
class TrainState:
    """Model, optimizer and progress of one run, and the parts that act on them; `new_state` in jobs/preparing/ builds it."""

    model: nn.Module
    """The module that holds the parameters (never a compiled wrapper)."""
    forward: Callable[..., Any]
    """What is called on inputs: the model itself, or its compiled form."""
    task: Task
    metric: Metric
    """What the target and the best checkpoint are about."""
    optimizer: Optimizer
    seed: int
    """The run's: what draws follow from."""
    micro_batch_size: int
    """In force now; halved when memory runs out."""
    evaluation_batch_size: int = EVALUATION_BATCH
    """Samples that evaluation passes forward at once, at most; halved when memory runs out."""
    clock: Clock
    ranks: Ranks
    all_reduce: AllReduce
    local_sgd: LocalSGD
    buffers: Buffers
    dropouts: Sequence[SampleDropout]
    """The model's."""
    average: WeightAverage | EvaluatedAverage | None = None
    by_samples: Sequence[str] = ()
    """Buffers that keep something of the samples that passed, and weights that every pass moves: with some, every step is one pass."""
    references: TrainingSamples | None = None
    """What evaluations compare with, where the task asks for it."""
    norm_samples: TrainingSamples | None = None
    """What batch-norms take their statistics of at the average that is evaluated, where the optimizer keeps one."""
    progress: Progress = field(default_factory=Progress)
    noise: NoiseSums = field(default_factory=NoiseSums)
    dual_noise: NoiseSums = field(default_factory=NoiseSums)
    gain: GainAverages = field(default_factory=GainAverages)
    saved_at_s: float = 0.0
    """The training clock at the newest checkpoint."""
    is_save_due: bool = False
    """Whether a checkpoint was due while the ranks differed."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, nothing else: loads with `weights_only`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "parameters": parameter_names(self.model, self.optimizer),
            "average": self.average.state_dict() if self.average else None,
            "progress": asdict(self.progress),
            "noise": asdict(self.noise),
            "dual_noise": asdict(self.dual_noise),
            "gain": asdict(self.gain),
            "batch_norm": self.buffers.last_steps.state_dict() if self.buffers.last_steps else None,
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
        if self.buffers.last_steps:
            self.buffers.last_steps.load_state_dict(saved["batch_norm"])
        self.progress = saved_progress(saved)
        self.noise, self.dual_noise = NoiseSums(**saved["noise"]), NoiseSums(**saved.get("dual_noise", {}))
        self.gain = GainAverages(**saved["gain"])
        self.micro_batch_size = saved["micro_batch_size"]
        self.clock.go_on_from(saved["training_s"], saved["evaluation_s"], saved["wall_s"])
        self.saved_at_s = saved["training_s"]


def saved_progress(saved: dict[str, Any]) -> Progress:
    """The progress of a saved state, also of one by an earlier version."""
    return Progress(**by_todays_names(saved["progress"]))


def malformed(saved: Any) -> str:
    """What of a saved state is not as `TrainState.state_dict` gives it, in words; empty if all is. That it fits a model, loading shows."""
    if not isinstance(saved, dict):
        return "there is no state in it"
    for name, parts in MAPPINGS.items():
        if not isinstance(section := saved.get(name), dict) or not all(part in section for part in parts):
            return f"its state has no {name}"
    for name in NUMBERS:
        if not isinstance(saved.get(name), (int, float)):
            return f"its state has no {name}"
    try:
        counted = [asdict(saved_progress(saved)), asdict(NoiseSums(**saved["noise"])), asdict(GainAverages(**saved["gain"]))]
    except TypeError as error:  # names that are none of theirs
        return f"its state is of another form ({error})"
    for name, value in (pair for numbers in counted for pair in numbers.items()):
        if not isinstance(value, (int, float, NoneType)):
            return f"its {name} is no number"
    return ""
