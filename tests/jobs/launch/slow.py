"""The small network of the tests, taking its time until a test has acted: the run must not be over before."""

import os
import time
from pathlib import Path

from torch import nn
from torch.utils.data import TensorDataset

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.models.table import OURS
from largebatch.jobs.spec.model_and_data import DatasetSpec

PASS_S = 0.06
WORKER = "worker-"
SAYS = "a worker builds its model"
UNFIT = "LARGEBATCH_TEST_UNFIT"
"""Set in the environment of a machine's Ray: there is no data on it."""


def build(num_classes: int, until: str, **arguments: object) -> nn.Module:
    """The mlp for digits; each training pass takes a while longer until the file `until` is there.

    Leaves a file beside `until` that tells which process this is: the test may want to end it.
    """
    Path(until).with_name(f"{WORKER}{os.getpid()}").touch()
    print(SAYS)
    model = OURS["mlp"](num_classes=num_classes, in_features=64, **arguments)
    model.register_forward_pre_hook(lambda module, inputs: time.sleep(PASS_S) if module.training and not Path(until).exists() else None)
    return model


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The digits as a person's own data set. Raises: FileNotFoundError on a machine that has none."""
    if os.environ.get(UNFIT):
        raise FileNotFoundError("no digits on this machine")
    dataset = load_dataset(DatasetSpec(name="digits"), Path())
    train, test = (TensorDataset(part.inputs, part.labels) for part in (dataset.train, dataset.test))
    return train, test
