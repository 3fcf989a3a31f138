"""Several optimizers as one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

PART = "part"
"""The option of a group that says which of the optimizers updates it."""


class Together(Optimizer):
    """Optimizers as one: each updates the groups that it was made with; rates, state and checkpoints are the whole's."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self._parts = parts
        super().__init__([{**group, PART: number} for number, part in enumerate(parts) for group in part.param_groups], {})

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has."""
        return {**super().__getstate__(), "_parts": self._parts}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, part in enumerate(self._parts):
            part.param_groups = [group for group in self.param_groups if group[PART] == number]  # what is loaded takes the place of both
            part.state = self.state
            part.step()
        return loss
