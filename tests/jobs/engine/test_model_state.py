"""What a model saves besides tensors goes into the fingerprint, and comes back from a checkpoint."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs import checkpoints
from jobs.engine.model_state import digest, refuse_unsaveable, what_is_unsaveable
from jobs.errors import PlanError
from jobs.spec_reader import read_spec


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


def test_the_fingerprint_of_tensors_is_of_their_names_and_bytes() -> None:
    model = nn.Linear(2, 2)
    expected = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        expected.update(name.encode() + tensor.numpy().tobytes())
    assert digest(model) == expected.hexdigest()


def test_the_fingerprint_tells_what_is_no_tensor_apart() -> None:
    assert digest(Scaled(2.0)) == digest(Scaled(2.0)) != digest(Scaled(3.0))


def test_what_is_no_tensor_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    state = {"progress": {"step": 1}, "model": Scaled(2.0).state_dict()}
    path = checkpoints.save(tmp_path, state, read_spec("digits-lamb"), is_best=False)
    other = Scaled(5.0)
    other.load_state_dict(checkpoints.load(path, torch.device("cpu"))["state"]["model"])
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
