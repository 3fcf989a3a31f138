"""What a model makes when the first samples come is drawn from the run's seed, and from nothing else."""

import pytest
import strangers
import torch
from torch import Tensor, nn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.table import build_model
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.spec.model_and_data import ModelSpec

BLANK = torch.zeros(2, 8)


def build(model: str, seed: int, blank: Tensor | None = BLANK, **arguments: str) -> nn.Module:
    spec = ModelSpec.model_validate({"entry_point": f"strangers:{model}", "arguments": arguments})
    return build_model(spec, Dataset("any", [], [], 3, (8,)), seed, None if blank is None else (blank,))


@pytest.mark.parametrize(
    ("model", "arguments"),
    [("lazy", {}), ("Late", {"kind": "layer"}), ("Late", {"kind": "buffer"})],
    ids=["lazy layers", "a layer made in forward", "a buffer made in forward"],
)
def test_seeds_differ_in_every_weight_and_nothing_else_does(model: str, arguments: dict[str, str]) -> None:
    states = [build(model, seed, blank, **arguments).state_dict() for seed, blank in ((0, BLANK), (0, BLANK + 1), (1, BLANK))]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
        if tensor.ndim == 2:
            assert not torch.equal(tensor, states[2][name]), name
    for name in ("1.running_mean", "1.num_batches_tracked"):  # the first pass moves no statistics
        if name in states[0]:
            assert not states[0][name].any()


def test_weights_that_are_there_stay_what_they_were() -> None:
    """Of the first pass nothing is left; weights made with the model are plain torch's under the run's seed."""
    with torch.random.fork_rng():
        seed_draws(key(7, "weights"), torch.device("cpu"))
        plain = strangers.failing(3)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        own = build("failing", 7)
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in own.state_dict().items())
    assert own.training


@pytest.mark.parametrize(
    ("kind", "what"), [("buffer of samples", "table"), ("weight of samples", "scale"), ("attribute of samples", "something in Late")]
)
def test_what_depends_on_the_first_samples_is_refused(kind: str, what: str) -> None:
    with pytest.raises(PlanError, match=f"{what} is made when the first samples come, and depends on which they are"):
        build("Late", 0, kind=kind)


class SetOnce(nn.Module):
    """Scales its inputs by what the first ones in training are, as activation norms begin."""

    def __init__(self, num_classes: int, remembers: bool = True) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(8, num_classes), nn.Parameter(torch.ones(8))
        self.is_set, self.remembers = False, remembers

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and not self.is_set:
            with torch.no_grad():
                self.scale.copy_(1.0 / (inputs.std(0) + 1e-3))
            self.is_set = self.remembers
        return self.layer(inputs * self.scale)


def test_a_weight_that_the_first_samples_set_once_is_refused() -> None:
    """It stayed as it was built: the pass that tried the model was the first."""
    spec = ModelSpec.model_validate({"entry_point": f"{__name__}:SetOnce"})
    with pytest.raises(PlanError, match="its forward pass sets scale when the first samples come, and never again"):
        build_model(spec, Dataset("any", [], [], 3, (8,)), 0, (BLANK,))
    always = ModelSpec.model_validate({"entry_point": f"{__name__}:SetOnce", "arguments": {"remembers": False}})
    build_model(always, Dataset("any", [], [], 3, (8,)), 0, (BLANK,))  # what each pass sets the model check looks at


def test_a_lazy_layer_that_no_sample_reaches_is_refused() -> None:
    with pytest.raises(PlanError, match=r"spare\.weight takes its shape from the first samples that pass through, and none of them reached it"):
        build("unreached_lazy", 0)
