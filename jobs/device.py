"""Chooses the device, and finds the micro-batch that fits it."""

import os
import platform
import shlex
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.warm_up import activation_bytes_per_sample, blank_pass
from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.base import Task

CPU_ACTIVATION_BYTES = 256 * 2**20
"""What a micro-batch may keep for its backward pass on a CPU: beyond this it gets no faster, only bigger."""
LARGEST_AUTO = 2**16
USUAL_THREADS = torch.get_num_threads()
"""With so many a run computes on this machine where nobody says how many: read before any of our own processes sets another number."""


def choose_device(name: str) -> torch.device:
    """The device for auto, cpu or cuda. Raises: SpecError if it is not there."""
    if name not in {"auto", "cpu", "cuda"}:
        raise SpecError("--device", f"{name!r} is not a device.", "Choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("--device", "cuda is not there: torch finds no GPU on this machine.", "Use --device cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def refuse_without_compiler(device: torch.device) -> None:
    """Raise PlanError where torch.compile would find no compiler for this device; a GPU's comes with torch."""
    command = os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++")
    if device.type == "cpu" and shutil.which(shlex.split(command)[0]) is None:
        raise PlanError("compile", f"torch.compile needs a C++ compiler, and {command} is not there.", "Install one, or set compile: false.")


def device_name(device: torch.device) -> str:
    """The device in words, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu ({platform.machine()}, {threads} {'thread' if threads == 1 else 'threads'})"


@cache
def cpu_model(cpu_info: Path = Path("/proc/cpuinfo")) -> str | None:
    """What the processor is called, which tells machines of different speed apart; None where the system does not say."""
    with suppress(OSError):
        named = (line.partition(":") for line in cpu_info.read_text().splitlines())
        model = next((text.strip() for name, _, text in named if name.strip() == "model name"), None)
        if model:
            return model
    return platform.processor() or None


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and threads: what results depend on besides the spec."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "cpu_model": cpu_model(),
        "torch_threads": torch.get_num_threads(),
    }


def largest_micro_batch(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset, device: torch.device, most: int, least: int = 1) -> int:
    """The micro-batch to use: the spec's own, or the largest power of two that fits, at most `most`.

    On a CPU it is computed from the bytes that one small forward pass keeps for its backward pass; the same
    model gives the same answer on every machine. On a GPU it is found by trying.

    Args:
        most: the largest batch that any step will have.
        least: samples that must stay together for batch-norm; host memory can take them, slower or not.
    """
    if spec.batch.micro_batch_size != "auto":
        return spec.batch.micro_batch_size
    if device.type == "cpu":
        per_sample = activation_bytes_per_sample(spec, task, model, dataset)
        size = LARGEST_AUTO
        while size > 1 and size * per_sample > CPU_ACTIVATION_BYTES:
            size //= 2
        return max(min(size, most), least)
    size = 1
    while size < min(most, LARGEST_AUTO) and _fits(spec, task, model, dataset, device, min(2 * size, most)):
        size = min(2 * size, most)
    return size


def _fits(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset, device: torch.device, size: int) -> bool:
    try:
        blank_pass(spec, task, model, model, dataset, size)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        return False
    finally:
        torch.cuda.empty_cache()
    # A fifth is left for the optimizer's state and for the allocator's waste.
    return torch.cuda.max_memory_reserved(device) < 0.8 * torch.cuda.get_device_properties(device).total_memory
