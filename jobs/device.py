"""Choosing the device, finding the micro-batch that fits it, and warming its kernels up."""

import os
import platform
from typing import Any

import torch
from torch import Tensor, nn

from jobs.data.dataset import Dataset
from jobs.data.draws import key
from jobs.engine.step import ran_out_of_memory
from jobs.errors import SpecError
from jobs.spec import TrainSpec

CPU_ACTIVATION_BYTES = 256 * 2**20
"""What a micro-batch may keep for its backward pass on a CPU: beyond this it gets no faster, only bigger."""
LARGEST_AUTO = 2**16


def choose_device(asked: str) -> torch.device:
    """The device for auto, cpu or cuda. Raises: SpecError if it is not there."""
    if asked not in {"auto", "cpu", "cuda"}:
        raise SpecError("--device", f"{asked!r} is not a device.", "Choose auto, cpu or cuda.")
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError("--device", "cuda is not there: torch finds no GPU on this machine.", "Use --device cpu or auto.")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The device in words, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def environment(device: torch.device) -> dict[str, Any]:
    """What results depend on besides the spec."""
    import numpy

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def largest_micro_batch(spec: TrainSpec, model: nn.Module, dataset: Dataset, device: torch.device, most: int) -> int:
    """The micro-batch to use: the spec's own, or the largest power of two that fits, at most `most`.

    On a CPU it is computed from the bytes that one small forward pass keeps for its backward pass; the same
    model gives the same answer on every machine. On a GPU it is found by trying.
    """
    if spec.batch.micro_batch_size != "auto":
        return spec.batch.micro_batch_size
    if device.type == "cpu":
        per_sample = activation_bytes_per_sample(model, dataset.input_shape, device)
        size = LARGEST_AUTO
        while size > 1 and size * per_sample > CPU_ACTIVATION_BYTES:
            size //= 2
        return min(size, most)
    size = 1
    while size < min(most, LARGEST_AUTO) and _fits(spec, model, dataset, device, min(2 * size, most)):
        size = min(2 * size, most)
    return size


def activation_bytes_per_sample(model: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> int:
    """Bytes that a forward pass in training keeps for the backward pass, per sample, parameters not counted."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    num_samples = 4
    with untouched(model), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(torch.zeros((num_samples, *input_shape), device=device))
    return sum(kept.values()) // num_samples + 1


def _fits(spec: TrainSpec, model: nn.Module, dataset: Dataset, device: torch.device, size: int) -> bool:
    try:
        warm_up(spec, model, model, dataset, device, size)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        return False
    finally:
        torch.cuda.empty_cache()
    # A fifth is left for the optimizer's state and for the allocator's waste.
    return torch.cuda.max_memory_reserved(device) < 0.8 * torch.cuda.get_device_properties(device).total_memory


def warm_up(spec: TrainSpec, model: nn.Module, forward: Any, dataset: Dataset, device: torch.device, size: int) -> None:
    """One forward and backward pass of `size` blank samples, so that no kernel is set up on the training clock."""
    inputs = torch.zeros((size, *dataset.input_shape), device=device)
    if spec.model.channels_last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with untouched(model), torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
        logits: Tensor = forward(inputs)
        logits.float().square().sum().backward()  # type: ignore[no-untyped-call]


class untouched:
    """A context that leaves a model as it was: running statistics, gradients, random state."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._held = [buffer.clone() for buffer in self._model.buffers()]
        torch.manual_seed(key("warm-up"))

    def __exit__(self, *_: object) -> None:
        for buffer, value in zip(self._model.buffers(), self._held, strict=True):
            buffer.copy_(value)
        for parameter in self._model.parameters():
            parameter.grad = None
