"""HeldData: the data set that a warm process has loaded once, and its children share: their copies cost nothing until they are written to."""

import contextlib
from pathlib import Path
from typing import Any

import torch

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.registry import OwnTaskConfig


class HeldData:
    """The last data set by name; a person's own code runs in children alone, so it loads its data there."""

    def __init__(self) -> None:
        self._asked: Any = None
        self._dataset: Dataset | None = None

    def of(self, spec: TrainSpec, data_dir: Path) -> Dataset | None:
        """The run's data set; None where a child has to load it, or to say why it cannot."""
        asked = (spec.dataset, spec.task, data_dir)
        if asked != self._asked:
            self._asked, self._dataset = asked, None
            if spec.dataset.entry_point is None and not isinstance(spec.task, OwnTaskConfig):
                torch.set_num_threads(1)  # no thread may be started here; each child sets its own number
                with contextlib.suppress(Exception):
                    self._dataset = load_dataset(spec.dataset, data_dir, spec.task)
        return self._dataset
