"""Files of weights: a model's plain state_dict, whole or not at all, and the one that a checkpoint was evaluated with.

A `.pt` is what `torch.save(model.state_dict(), path)` writes, a `.safetensors` what the safetensors library does.
"""

import os
import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.entry_points import described
from largebatch.jobs.errors import CheckpointError, InputError, SpecError
from largebatch.jobs.spec.model_and_data import WEIGHT_FILES
from largebatch.jobs.whole_files import write_whole


def evaluated_weights(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The model's state_dict as it was evaluated: with the averages in place of what they are of, where the run keeps some.

    Args: saved: a checkpoint's `state`.
    Raises: CheckpointError for an average of a version that did not save names.
    """
    weights, average = dict(saved["model"]), saved["average"]
    if average is None:
        return weights
    if "names" not in average:
        raise CheckpointError("ema", "an earlier version saved the average without names.", "Resume the run for a step, which saves it anew.")
    averages = dict(zip(average["names"], average["averages"], strict=True))
    # A parameter under two names is averaged under its first.
    tied = {place(weights[name]): value for name, value in averages.items() if name in weights}
    evaluated = {name: averages.get(name, tied.get(place(value), value)) for name, value in weights.items()}
    # An average may be wider than what it is evaluated in.
    return {name: value.to(weights[name].dtype) if isinstance(value, Tensor) else value for name, value in evaluated.items()}


def write_weights(path: Path, weights: Mapping[str, Any], option: str = "--output") -> None:
    """Write a state_dict, whole or not at all, in the form that the file's name ends in. Raises: InputError naming `option`; StorageError."""
    if path.suffix == ".safetensors":
        save = _safetensors(option).save
        others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
        if others:
            raise InputError(option, f"a .safetensors holds tensors alone, and {others[0]} is none.", "Give a name that ends in .pt.")
        try:
            # Tied weights are written under each of their names: the library takes no two tensors of one memory.
            content = save({name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in weights.items()})
        except Exception as error:  # a type of tensor that the library does not know
            raise InputError(option, f"the safetensors library refuses this model: {described(error)}.", "Give a name that ends in .pt.") from error
        with write_whole(path) as file:
            file.write(content)
    else:
        with write_whole(path) as file:
            torch.save(dict(weights), file)


def read_weights(given: str, data_dir: Path) -> dict[str, Any]:
    """A file's state_dict, on the CPU. Args: given: its path, below the data folder or else as it is. Raises: SpecError."""
    path = next((path for path in (data_dir / given, Path(given)) if os.path.isfile(path)), None)  # False for names that no file can have
    if path is None:
        raise SpecError("model.weights", f"there is no file {given}, neither in the data folder {data_dir} nor as it is given.")
    load = _safetensors("model.weights").load_file if path.suffix == ".safetensors" else partial(torch.load, map_location="cpu", weights_only=True)
    try:
        weights = load(path)
    except pickle.UnpicklingError as error:
        problem = f"{path} cannot be read: it is damaged, or holds more than tensors and plain values, and what else a file brings along is not run."
        hint = "Where you trust it, load it yourself and write its state_dict alone: torch.save(state_dict, path)."
        raise SpecError("model.weights", problem, hint) from error
    except Exception as error:  # strange bytes raise almost anything
        raise SpecError("model.weights", f"{path} cannot be read: {described(error)}.", f"Write it with {WEIGHT_FILES[path.suffix]}.") from error
    if not isinstance(weights, dict) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise SpecError("model.weights", f"{path} holds no plain state_dict.", _how_it_becomes_one(weights, path))
    return weights


def _how_it_becomes_one(loaded: Any, path: Path) -> str:
    """What to do with a file of something else: a checkpoint has the state_dict inside."""
    if isinstance(loaded, dict) and {"spec", "state"} <= loaded.keys():
        return f"It is a checkpoint of a run: largebatch export RUN --output weights{path.suffix} writes the run's weights."
    parts = loaded.items() if isinstance(loaded, dict) else ()
    inside = [str(name) for name, part in parts if isinstance(part, Mapping) and any(isinstance(value, Tensor) for value in part.values())]
    if path.suffix == ".pt" and len(inside) == 1:
        return f"It has one under {inside[0]!r}: torch.save(torch.load({str(path)!r})[{inside[0]!r}], path) writes that alone."
    return f"Write it with {WEIGHT_FILES[path.suffix]}."


def place(value: Any) -> Any:
    """Where a tensor lies in memory, and how; what is no tensor is only itself."""
    return (value.data_ptr(), value.shape, value.stride()) if isinstance(value, Tensor) and value.numel() else id(value)


def _safetensors(field: str) -> Any:
    """The library. Raises: SpecError where it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        raise SpecError(field, "a .safetensors needs the safetensors library, which is not installed.", "pip install 'largebatch[text]'") from None
    return safetensors.torch
