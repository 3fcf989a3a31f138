"""The small network of the tests, taking its time until a test has acted: the run must not be over before."""

import time
from pathlib import Path

from torch import nn

from jobs.models.table import OURS

PASS_S = 0.06


def build(num_classes: int, until: str, **arguments: object) -> nn.Module:
    """The mlp for digits; each training pass takes a while longer until the file `until` is there."""
    model = OURS["mlp"](num_classes=num_classes, in_features=64, **arguments)
    model.register_forward_pre_hook(lambda module, inputs: time.sleep(PASS_S) if module.training and not Path(until).exists() else None)
    return model
