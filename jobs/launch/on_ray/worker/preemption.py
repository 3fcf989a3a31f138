"""Ray's notice that a machine of this run will be taken away."""

import os
import threading
from typing import Any

import ray.train

POLL_S = 1.0
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Ray's own setting: 0 where nobody takes machines away."""


class PreemptionNotice:
    """Asks Ray Train once a second, in a thread of its own: the question is a barrier, at which all ranks' threads meet."""

    def __init__(self) -> None:
        self._is_noticed = threading.Event()
        if os.environ.get(WATCHER) != "0":
            threading.Thread(target=self._watch, name="preemption", daemon=True).start()

    @property
    def is_noticed(self) -> bool:
        """Whether a machine of this run will be taken away."""
        return self._is_noticed.is_set()

    def _watch(self) -> None:
        train: Any = ray.train  # its stubs are those of the older Train
        while not self._is_noticed.wait(POLL_S):
            if train.get_preemption_info() is not None:
                self._is_noticed.set()
