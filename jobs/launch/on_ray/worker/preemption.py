"""Ray's notice that a machine of this run will be taken away."""

import os
import threading
from typing import Any

import ray.train

POLL_S = 1.0
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Ray's own setting: 0 where nobody takes machines away."""


def preemption_notice() -> threading.Event:
    """Set once a machine of this run will be taken away.

    Ray Train is asked once a second, in a thread of its own: the question is a barrier, at which all ranks' threads meet.
    """
    notice = threading.Event()

    def watch() -> None:
        train: Any = ray.train  # its stubs are those of the older Train
        while not notice.wait(POLL_S):
            if train.get_preemption_info() is not None:
                notice.set()

    if os.environ.get(WATCHER) != "0":
        threading.Thread(target=watch, name="preemption", daemon=True).start()
    return notice
