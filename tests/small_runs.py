"""Small training runs in this process: a spec's document, the job that is made of it, the run, and what it left in its folder."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.ranks.all_reduce import AllReduce
from largebatch.jobs.engine.ranks.buffers import Buffers
from largebatch.jobs.engine.ranks.local_sgd import LocalSGD
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.models.norms.last_steps import LastSteps
from largebatch.jobs.models.sample_dropout import sample_dropouts
from largebatch.jobs.optim.averaging.weight_average import WeightAverage
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.resume import load_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import NoticeRecord, RunSummary, StartRecord, StepRecord
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import ReductionSpec
from largebatch.jobs.tasks.base import Task

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def synthetic(num_train: int = 64, num_test: int = 16, shape: tuple[int, ...] = (1, 4, 4)) -> dict[str, Any]:
    """The data set's section: random images of four classes."""
    return {"name": "synthetic", "arguments": {"num_train": num_train, "num_test": num_test, "num_classes": 4, "shape": [*shape]}}


def document(**parts: Any) -> dict[str, Any]:
    """A spec as plain data, of a network that trains in milliseconds; `parts` replace whole sections."""
    return {
        "dataset": synthetic(),
        "model": {"name": "mlp", "arguments": {"width": 4}},
        "batch": {"global_batch_size": 16},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.05},
        "stop": {"steps": 8},
        "tracking": {"enabled": False},
        **parts,
    }


def prepared(data_dir: Path = Path("nowhere"), world_size: int | None = None, **parts: Any) -> Prepared:
    """The job of such a document, ready to run on the CPU."""
    return prepare(build_spec(document(**parts)), CPU, data_dir, world_size=world_size)


def planned(num_samples: int, has_batch_norm: bool = False, **parts: Any) -> TrainPlan:
    """The plan of such a document, which says its micro-batch, for so many samples; no model and no data are asked."""
    spec = build_spec(document(**parts))
    return make_plan(spec, Facts(num_samples, has_batch_norm, int(spec.batch.micro_batch_size)))


def state_of(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batch_size: int,
    task: Task,
    average: WeightAverage | None = None,
    last_steps: LastSteps | None = None,
) -> TrainState:
    """The state of a model on the CPU that no spec names, on all ranks, before its first step."""
    ranks = Ranks(CPU)
    return TrainState(
        model=model,
        forward=model,
        task=task,
        metric=task.headline,
        optimizer=optimizer,
        seed=0,
        micro_batch_size=micro_batch_size,
        clock=Clock(CPU),
        ranks=ranks,
        all_reduce=AllReduce(model, ranks, ReductionSpec()),
        local_sgd=LocalSGD(model, optimizer, ranks, average.averages if average else []),
        buffers=Buffers(model, ranks, last_steps=last_steps),
        dropouts=sample_dropouts(model),
        average=average,
    )


class InOrder(NamedTuple):
    """Samples in a fixed order, so that nothing of the code under test decides what is compared."""

    inputs: Tensor
    labels: Tensor

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        return self.inputs[samples.start : samples.stop].clone(), self.labels[samples.start : samples.stop]


class Net(nn.Module):
    """A module of parts, tensors among them its buffers, and what `forward` makes of it and its inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self._forward(self, *inputs)


class Samples(torch.utils.data.Dataset[Any]):
    """A map-style set: each sample is what `sample` makes of its index."""

    def __init__(self, size: int, sample: Callable[[int], Any], num_classes: int = 3) -> None:
        self.size, self.sample, self.num_classes = size, sample, num_classes

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.sample(index)


def trained(job: Prepared, run_dir: Path, listener: Listener | None = None, *, resumes: bool = False) -> RunSummary:
    """The run, in a folder that need not be there."""
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    return run_job(job, run_dir, listener or Listener(), resumes)


@contextmanager
def one_thread() -> Iterator[None]:
    """What is compared bit for bit with a process of one thread adds up in its order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stopping_after(num_steps: int | None) -> Listener:
    """One that asks a run to stop after so many of its own steps; None: never."""
    done = itertools.count(1)
    return Listener(should_stop=lambda: next(done) == num_steps)


def parameters(run_dir: Path, step: int | None = None) -> dict[str, Tensor]:
    """Weights and running statistics of the newest checkpoint, or that of a step."""
    found = [each for each in list_checkpoints(run_dir / "checkpoints") if each.kind == "step" and step in (None, each.step)]
    return load_checkpoint(found[0].path, CPU)["state"]["model"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(one[name], other[name]) for name in one)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two models' numbers, each tensor's over its own largest."""
    return max(float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp(min=1e-6)) for name in one)


def starts(run_dir: Path) -> list[StartRecord]:
    return [record for record in read_records(run_dir) if isinstance(record, StartRecord)]


def steps(run_dir: Path) -> list[int]:
    """The steps that the journal holds, in its order."""
    return [record.step for record in read_records(run_dir) if isinstance(record, StepRecord)]


def losses(run_dir: Path) -> list[float]:
    return [record.loss for record in read_records(run_dir) if isinstance(record, StepRecord)]


def notices(run_dir: Path) -> list[str]:
    """All but that other tests kept the machine busy."""
    texts = [record.text for record in read_records(run_dir) if isinstance(record, NoticeRecord)]
    return [text for text in texts if not text.startswith("The machine was busy")]


def wait_for(is_so: Callable[[], object], seconds: float, process: Any = None) -> None:
    """Until something is so. Raises: AssertionError if it takes too long, or if a process (by Popen or forked) ends that must live meanwhile."""
    ends_at = time.monotonic() + seconds
    while not is_so():
        assert process is None or process.poll() is None, "its process has ended"
        assert time.monotonic() < ends_at, "it took too long"
        time.sleep(0.05)
