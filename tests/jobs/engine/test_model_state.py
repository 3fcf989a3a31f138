"""What a model saves besides tensors goes into the fingerprint, and comes back from a checkpoint."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_state import digest, refuse_unsaveable, what_is_unsaveable
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.snapshot import Snapshot
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.resume import load_checkpoint, save_checkpoint, saved_state
from largebatch.jobs.spec.read import read_spec


class Scaled(nn.Linear):
    """Keeps a number that is no tensor."""

    def __init__(self, scale: Any) -> None:
        super().__init__(2, 2)
        self.scale = scale
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def get_extra_state(self) -> Any:
        return {"scale": self.scale, "table": torch.arange(3)}

    def set_extra_state(self, state: Any) -> None:
        self.scale = state["scale"]


class OwnState(nn.Module):
    """Saves itself in a way of its own, which `load_state_dict` takes without a word."""

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(8, num_classes), kind
        self.register_buffer("mean", torch.full((8,), 0.1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs - self.mean)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        if self.kind == "half":
            return {name: value.half() for name, value in state.items()}
        if self.kind == "half buffer":
            return {name: value.half() if name == "mean" else value for name, value in state.items()}
        if self.kind == "dropped":
            del state["layer.bias"]
        return {f"model.{name}": value for name, value in state.items()} if self.kind == "renamed" else state

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        if self.kind == "scaled":
            state = {**state, "layer.weight": state["layer.weight"] * 2}
        if self.kind == "replaced":
            self.layer.weight = nn.Parameter(torch.zeros(3, 8))
        return super().load_state_dict({name.removeprefix("model."): value for name, value in state.items()}, strict=False)


def test_the_fingerprint_of_tensors_is_of_their_names_and_bytes() -> None:
    model = nn.Linear(2, 2)
    expected = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        expected.update(name.encode() + tensor.numpy().tobytes())
    assert digest(model) == expected.hexdigest()


def test_the_fingerprint_tells_what_is_no_tensor_apart() -> None:
    assert digest(Scaled(2.0)) == digest(Scaled(2.0)) != digest(Scaled(3.0))


def test_what_is_no_tensor_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    state = {**saved_state(new_state(small_runs.prepared())), "model": Scaled(2.0).state_dict()}
    path = save_checkpoint(tmp_path, state, read_spec("digits-lamb"), is_best=False)
    other = Scaled(5.0)
    other.load_state_dict(load_checkpoint(path, torch.device("cpu"))["state"]["model"])
    assert other.scale == 2.0
    assert digest(other) == digest(Scaled(2.0))


def test_what_a_checkpoint_would_not_give_back_is_named() -> None:
    assert what_is_unsaveable(Scaled("text").state_dict()) == ""
    with pytest.raises(PlanError, match="_extra_state in its state is a dict with what a checkpoint cannot keep"):
        refuse_unsaveable(Scaled(lambda inputs: inputs))


def test_a_state_dict_that_raises_is_told_where() -> None:
    class Broken(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            raise KeyError("no state")

    with pytest.raises(PlanError, match=r"its state_dict fails: KeyError: 'no state' \(.*test_model_state\.py, line \d+\)"):
        refuse_unsaveable(Broken(2, 2))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("half", r"its state_dict gives layer\.weight as float16, and it is float32"),
        ("half buffer", r"its state_dict gives mean as float16, and it is float32"),
        ("dropped", r"layer\.bias does not come back from its own state_dict"),
        ("scaled", r"layer\.weight does not come back"),
        ("replaced", r"layer\.weight does not come back"),
    ],
)
def test_what_a_resume_would_not_give_back_is_refused(kind: str, sentence: str) -> None:
    model = OwnState(3, kind)
    before = {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    with pytest.raises(PlanError, match=sentence):
        refuse_unsaveable(model)
    if kind != "replaced":
        assert all(torch.equal(before[name], tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers()))


@pytest.mark.parametrize("kind", ["renamed", "plain"])
def test_a_state_under_other_names_that_comes_back_is_taken(kind: str) -> None:
    model = OwnState(3, kind)
    weight = model.layer.weight.detach().clone()
    refuse_unsaveable(model)
    assert torch.equal(model.layer.weight, weight)
    assert torch.equal(model.mean, torch.full((8,), 0.1))


def test_frozen_weights_may_come_from_the_build_alone() -> None:
    """As adapters on a pretrained model save themselves."""
    model = OwnState(3, "dropped")
    model.layer.bias.requires_grad_(False)
    refuse_unsaveable(model)


def test_a_snapshot_gives_extra_state_back() -> None:
    model = Scaled(2.0)
    snapshot = Snapshot(model)
    model.scale = 7.0
    snapshot.restore()
    assert model.scale == 2.0
