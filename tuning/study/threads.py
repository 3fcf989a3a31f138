"""With how many threads a study's runs compute: all that torch would use, or one where all are hardly faster.

The threads of a small model wait for each other longer than they work. With one a run of a search leaves the other cores to others beside it, and
a busy machine does not make it tens of times slower (docs/results/busy_machine.md).
"""

import os
from collections.abc import Callable, Mapping
from statistics import geometric_mean

import torch

PAYS = 1.2
"""From this many times as fast on, on average over batch sizes, all threads are used."""
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""By these a person has chosen."""


def choose_threads(device: torch.device, measure: Callable[[], Mapping[int, float]]) -> str:
    """Set the number of threads of this process, unless a person has, or a GPU computes.

    Args: measure: seconds of a step by batch size.
    Returns: that one was chosen, for a person; empty where all are used.
    """
    most = torch.get_num_threads()
    if device.type != "cpu" or most == 1 or any(map(os.environ.get, CHOSEN_BY)):
        return ""
    with_all = measure()
    torch.set_num_threads(1)
    with_one = measure()
    times = geometric_mean(with_one[batch] / with_all[batch] for batch in with_all.keys() & with_one.keys())
    if times >= PAYS:
        torch.set_num_threads(most)
        return ""
    slower = f"{most} take {1 / times:.2g} times as long for a step, on average over batch sizes"
    return f"Runs train with one thread: {slower}. OMP_NUM_THREADS decides otherwise."
