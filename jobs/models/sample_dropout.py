"""Replaces dropout by one whose mask belongs to the sample, whatever the micro-batch, the number of ranks or a repeated step.

What a sample drops follows from (seed, epoch, place in the epoch's order), which layer it is, how often that layer ran in
this forward pass, and the position in the sample; nothing else is drawn from. The engine says before every
forward pass which samples come (`set_dropout_keys`). docs/decisions/014 says why and what it costs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from largebatch.jobs.samples.keyed_random import bits, key, streams
from largebatch.jobs.samples.slice import Slice

LEADING: dict[tuple[str, str], int | None] = {
    ("torch.nn.modules.dropout", "Dropout"): None,
    ("torch.nn.modules.dropout", "Dropout1d"): 2,
    ("torch.nn.modules.dropout", "Dropout2d"): 2,
    ("torch.nn.modules.dropout", "Dropout3d"): 2,
    ("torchvision.ops.stochastic_depth", "StochasticDepth"): 1,
    ("timm.layers.drop", "DropPath"): 1,
    ("transformers.models", "DropPath"): 1,  # a copy for each of its models: SwinDropPath, ConvNextDropPath, ...
}
"""The modules that are replaced, by name so that no library need be there: how many leading dimensions have a decision of their own
(None: all; 2: whole channels; 1: whole samples)."""
RESOLUTION = 2**16
"""Decisions are made by 16 bits each, four to a random word: p is held to the nearest 2^-16."""


class SampleDropout(nn.Module):
    """Takes the place of a torch dropout; no parameters, no buffers, the identity in evaluation.

    Dimension 0 of what it gets must be the samples, or the samples times something in their order (n * tokens). What has
    another length, and every forward pass that no keys were set for, drops as the torch module would.

    Args:
        dropout: the module it replaces.
        layer: the number among the model's dropouts.
        leading: see `LEADING`.
    """

    def __init__(self, dropout: nn.Module, layer: int, leading: int | None) -> None:
        super().__init__()
        self.p = float(getattr(dropout, "drop_prob", None) or getattr(dropout, "p", 0.0))  # type: ignore[arg-type]
        self.inplace = bool(getattr(dropout, "inplace", False))
        self.training = dropout.training
        self._theirs = (dropout.train(),)  # in a tuple, so that it is no part of the model
        self.layer, self._leading = layer, leading
        self._first_key = key("dropout", layer, 0)
        self._states: Tensor | None = None
        self._runs: dict[int, int] = {}

    def set_keys(self, states: Tensor | None) -> None:
        """Say which samples the next forward pass is of. Args: states: (samples,) int64, random for each; None: of no known ones."""
        self._states = states
        self._runs.clear()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (samples, ...) with some elements, channels or samples zero, the others divided by 1 - p."""
        if not self.training or self.p == 0.0:
            return inputs
        states = self._states
        if states is None or inputs.ndim == 0 or inputs.shape[0] % states.shape[0]:
            outputs: Tensor = self._theirs[0](inputs)
            return outputs
        scale = 1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0
        kept = inputs.mul_(scale) if self.inplace else inputs * scale
        return kept.masked_fill_(self._drops(states, inputs.shape), 0.0)

    def _drops(self, states: Tensor, shape: torch.Size) -> Tensor:
        """The mask of what is dropped: bool, of the leading dimensions of `shape`, 1 in the others."""
        decided = shape if self._leading is None else shape[: self._leading]
        per_sample = math.prod(decided) // states.shape[0]
        words = streams(states, self._draw_key(), -(-per_sample // 4))
        threshold = min(round(self.p * RESOLUTION), RESOLUTION - 1) - RESOLUTION // 2
        drops = words.view(torch.int16)[:, :per_sample] < threshold
        return drops.reshape(*decided, *(1 for _ in shape[len(decided) :]))

    def _draw_key(self) -> int:
        """The key of this layer's draws in this run of it, one of several in a forward pass.

        What activation checkpointing runs again must draw what it drew. A number from torch's generator tells runs apart:
        checkpointing sets that generator back before it runs a part again. Compiled code, which keeps no count, has one key.
        """
        if torch.compiler.is_compiling():
            return self._first_key
        mark = int(torch.randint(2**63 - 1, ()))
        return key("dropout", self.layer, self._runs.setdefault(mark, len(self._runs)))

    def extra_repr(self) -> str:
        """For printing."""
        return f"p={self.p}"


def use_sample_dropout(model: nn.Module) -> nn.Module:
    """The model with every dropout of `LEADING` replaced in place (the model itself, if it is one)."""
    return _replaced(model, {})


def _replaced(module: nn.Module, replacements: dict[nn.Module, SampleDropout]) -> nn.Module:
    kind = _kind(module)
    # Stochastic depth may also drop whole micro-batches, or leave unscaled what it keeps.
    if kind in LEADING and getattr(module, "mode", "row") == "row" and getattr(module, "scale_by_keep", True):
        if module not in replacements:
            replacements[module] = SampleDropout(module, len(replacements), LEADING[kind])
        return replacements[module]
    for name, child in module._modules.items():  # a module under two names comes twice
        if child is not None and (replacement := _replaced(child, replacements)) is not child:
            setattr(module, name, replacement)
    return module


def _kind(module: nn.Module) -> tuple[str, str]:
    """A module's class, as `LEADING` names it."""
    library, name = type(module).__module__, type(module).__qualname__
    if library.startswith("transformers.models.") and name.endswith("DropPath"):
        return "transformers.models", "DropPath"
    return library, name


def sample_dropouts(model: nn.Module) -> list[SampleDropout]:
    """The sample dropouts of a model, in its order."""
    return [module for module in model.modules() if isinstance(module, SampleDropout)]


def set_dropout_keys(dropouts: Sequence[SampleDropout], seed: int, samples: Slice, device: torch.device) -> None:
    """Gives dropouts the keys of the samples of the next forward pass, a slice of an epoch's order; costs nothing where there are no dropouts."""
    if not dropouts:
        return
    states = bits(key(seed, "dropout", samples.epoch), torch.arange(samples.start, samples.stop, device=device))
    for dropout in dropouts:
        dropout.set_keys(states)
