"""A model whose parameters are slices, transposed or channels last trains as the same model does row by row."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, Net, prepared, synthetic, trained
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.errors import CheckpointError, PlanError
from largebatch.jobs.resume import load_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints

ALL_MATRICES = [{"pattern": "*", "to": "muon"}]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"name": "sgd", "weight_decay": 0.01}, "learning_rate": {"base": 0.1}},
    "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.01}, "learning_rate": {"base": 0.01}},
    "lars": {"optimizer": {"name": "lars", "weight_decay": 0.01}, "learning_rate": {"base": 2.0}},
    "lamb": {"optimizer": {"name": "lamb", "weight_decay": 0.01}, "learning_rate": {"base": 0.01}},
    # exact: in float64, for muon rounds its matrices to bfloat16, and what another order of float32's sums makes of them to something else
    "muon": {"optimizer": {"name": "muon", "weight_decay": 0.01, "assign": ALL_MATRICES}, "learning_rate": {"base": 0.01}},
}


class LaidOut(nn.Module):
    """Args: dense: row by row instead; turned: the last weight lies the other way round, as after a change of the code."""

    def __init__(self, num_classes: int, dense: bool = False, turned: bool = False, exact: bool = False) -> None:
        super().__init__()
        dtype = torch.float64 if exact else torch.float32
        whole = torch.randn(36, 32, dtype=dtype) / 6
        parts = {"sliced": whole[:, :16], "strided": whole[:16, 16::2].t(), "last": (torch.randn(num_classes, 8, dtype=dtype) / 3).t()}
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part.clone(memory_format=torch.contiguous_format) if dense else part))
        if turned:
            self.last.data = self.last.data.contiguous()
        self.convolution = nn.Conv3d(1, 2, 3, padding=1, dtype=dtype)
        if not dense:
            self.convolution = self.convolution.to(memory_format=torch.channels_last_3d)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (n, 1, 6, 6)."""
        hidden = self.convolution(images[:, :, None].to(self.last.dtype)).sum(1).flatten(1)
        return functional.gelu(functional.gelu(hidden @ self.sliced) @ self.strided.t()) @ self.last


def hidden_sparse(num_classes: int) -> nn.Module:
    """Its sparse gradient only a backward pass shows."""

    def forward(model: Any, images: Tensor) -> Tensor:
        return model.layer(functional.embedding(images.flatten(1).long() % 9, model.table, sparse=True).mean(1))

    return Net(forward, table=nn.Parameter(torch.randn(9, 4)), layer=nn.Linear(4, num_classes))


laid_out = LaidOut
"""An entry point, as is `hidden_sparse`."""


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as the module `own_layouts`, as a person's file beside the run would be."""
    monkeypatch.setitem(sys.modules, "own_layouts", sys.modules[__name__])


def train(run_dir: Path, model: str, arguments: dict[str, Any], parts: dict[str, Any], steps: int, resumes: bool = False) -> dict[str, Tensor]:
    """The weights at the end, and their averages."""
    own = {"dataset": synthetic(80, 20, (1, 6, 6)), "model": {"entry_point": f"own_layouts:{model}", "arguments": arguments}}
    usual = {"batch": {"global_batch_size": 32, "micro_batch_size": 16}, "gradient": {"clip_norm": 1.0}, "ema": {"decay": 0.9}}
    job = prepared(**own, **usual, stop={"steps": steps}, checkpoint={"every_seconds": None}, **parts)
    trained(job, run_dir, resumes=resumes)
    state = load_checkpoint(list_checkpoints(run_dir / "checkpoints")[0].path, CPU)["state"]
    averages = {f"average of {name}": value for name, value in zip(state["average"]["names"], state["average"]["averages"], strict=True)}
    return {**state["model"], **averages}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_does_not_depend_on_how_parameters_lie(name: str, tmp_path: Path) -> None:
    parts = OPTIMIZERS[name]
    exact = {"exact": name == "muon"}
    dense = train(tmp_path / "dense", "laid_out", {"dense": True, **exact}, parts, 6)
    train(tmp_path / "laid", "laid_out", exact, parts, 3)
    laid = train(tmp_path / "laid", "laid_out", exact, parts, 6, resumes=True)
    for key, value in dense.items():
        torch.testing.assert_close(laid[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_that_lie_otherwise_since_the_checkpoint(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person's code has changed, and the spec has not."""
    parts = OPTIMIZERS[name]
    exact = {"exact": name == "muon"}
    whole = train(tmp_path / "whole", "laid_out", exact, parts, 6)
    train(tmp_path / "stopped", "laid_out", exact, parts, 3)
    monkeypatch.setattr(sys.modules[__name__], "laid_out", lambda num_classes, exact: LaidOut(num_classes, turned=True, exact=exact))
    resumed = train(tmp_path / "stopped", "laid_out", exact, parts, 6, resumes=True)
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-5, atol=1e-6)


def test_weights_of_another_precision_since_the_checkpoint_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {**OPTIMIZERS["adamw"], "precision": "float32"}
    train(tmp_path, "laid_out", {}, parts, 2)
    monkeypatch.setattr(LaidOut, "forward", lambda model, images: functional.linear(images.flatten(1).double(), model.sliced[:, :4].t()))
    monkeypatch.setattr(sys.modules[__name__], "laid_out", lambda num_classes: LaidOut(num_classes).double())
    with pytest.raises(CheckpointError, match="the checkpoint does not fit this model: sliced was float32 and is float64"):
        train(tmp_path, "laid_out", {}, parts, 4, resumes=True)


def test_a_sparse_gradient_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="model: table would have a sparse gradient"):
        train(tmp_path, "hidden_sparse", {}, OPTIMIZERS["sgd"], 2)
