"""Lets a model run without gradients, also a model that recomputes parts in the backward pass."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_gradient() -> Iterator[None]:
    """Context without gradients, and without the warning of torch's reentrant checkpointing that there will be none: nobody asked for them."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        yield
