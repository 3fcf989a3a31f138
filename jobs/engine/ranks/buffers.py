"""A model's buffers while it trains: norms' running statistics, and what other layers keep."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.ranks.batch_norm_statistics import BatchNormStatistics, agreed
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import forward_pass_of, ghost_norms, refuse_change, settings_of
from largebatch.jobs.models.norms.last_steps import LastSteps

NUM_CHECKED = 3
"""Steps after which ranks compare what they hold, from the start of a process on."""
ROUNDING = 1e-4
"""Of a buffer's largest number: by how much two ranks may differ."""


class Buffers:
    """Holds a model's buffers as a step began, and makes one of what its passes on all ranks left in them.

    Args:
        once_a_step: names of buffers that every pass in training moves, whichever its samples: all passes of a step begin from the same.
        last_steps: what the norms' statistics are taken over, where they are no moving averages.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, once_a_step: Sequence[str] = (), last_steps: LastSteps | None = None) -> None:
        self.forward_pass = forward_pass_of(model)
        self.last_steps = last_steps
        self._model, self._ranks = model, ranks
        # Modules are found once; what they hold is looked up each time, for some put another tensor in a buffer's place.
        self._modules = list(model.modules())
        names = (
            f"{path}.{name}".lstrip(".") for path, module in model.named_modules() for name, value in module._buffers.items() if value is not None
        )
        self._once_a_step = [index for index, name in enumerate(names) if name in once_a_step]
        self._statistics = BatchNormStatistics(model, ranks)
        self._settings = {norm: settings_of(norm) for norm in ghost_norms(model)}
        self._held: list[Tensor] = []
        self._num_checked = 0

    def begin_step(self) -> None:
        """Hold what the buffers are now."""
        if self.last_steps:
            self.last_steps.begin_step()
        self._held = [buffer.clone() for buffer in self._buffers()]
        self._settings = {norm: settings_of(norm) for norm in self._settings}
        self.forward_pass.start_step()

    def begin_pass(self, num_samples: int) -> None:
        """Make ready for a micro-batch's forward pass: buffers that move once a step are again what they were as it began."""
        if self._once_a_step:
            buffers = list(self._buffers())
            for index in self._once_a_step:
                buffers[index].copy_(self._held[index])
        self.forward_pass.begin(num_samples)

    def refuse_changed_settings(self) -> None:
        """Raise PlanError if a pass since the step began has changed the settings of a norm."""
        for norm, settings in self._settings.items():
            refuse_change(norm, settings)

    def put_back(self) -> None:
        """Undo what the passes of a step that failed did."""
        for buffer, value in zip(self._buffers(), self._held, strict=True):
            buffer.copy_(value)

    def settle(self, is_local: bool) -> None:
        """End a step that counts: make all ranks' buffers equal, but in a local step. Every rank must call this.

        Raises: PlanError, on every rank, if ranks hold different buffers after one of the first steps.
        """
        checks = self._num_checked < NUM_CHECKED
        self._num_checked += 1
        self._statistics.settle(self._buffers(), self._held, is_local, checks)
        if self.last_steps:
            self.last_steps.end_step()
        if self._ranks.world_size > 1 and not is_local:
            if checks:
                self._refuse_difference()
            known = set(map(id, self._statistics.buffers()))
            # What the split of a batch changes is refused before training: the others differ by rounding, if at all.
            self._ranks.take_from_first([buffer for buffer in self._model.buffers() if id(buffer) not in known])
        self.forward_pass.forget()

    def _buffers(self) -> Iterator[Tensor]:
        """What the model's modules hold now; a tensor that two of them hold comes twice."""
        return (buffer for module in self._modules for buffer in module._buffers.values() if buffer is not None)

    def _refuse_difference(self) -> None:
        """Raises: PlanError, on every rank, for the buffers that ranks hold in different shapes, or all whose values differ."""
        buffers, differing = dict(self._model.named_buffers()), list[str]()
        shapes = self._ranks.gathered([(name, tuple(buffer.shape)) for name, buffer in buffers.items()])
        if any(rank_shapes != shapes[0] for rank_shapes in shapes):
            differing = sorted({name for rank_shapes in shapes for name, _ in set(rank_shapes) ^ set(shapes[0])})
        elif buffers:
            values = [torch.view_as_real(buffer) if buffer.is_complex() else buffer for buffer in buffers.values()]
            flat = torch.cat([torch.nan_to_num(value.detach().reshape(-1).double(), nan=1e300).to(self._ranks.device) for value in values])
            spread, sizes = self._ranks.largest(flat.clone()) + self._ranks.largest(-flat), self._ranks.largest(flat.abs())
            lengths = [value.numel() for value in values]
            for name, value, distance, size in zip(buffers, values, torch.split(spread, lengths), torch.split(sizes, lengths), strict=True):
                if value.numel() and bool((distance > (ROUNDING * size.max() if value.is_floating_point() else 0.0)).any()):
                    differing.append(name)
        if differing:
            raise agreed(
                PlanError(
                    "model",
                    f"workers hold different values of the buffer {', '.join(differing)} after a step: what it holds depends on which samples a"
                    " worker sees.",
                    "Train without --workers, or keep it out of the model's buffers.",
                )
            )
