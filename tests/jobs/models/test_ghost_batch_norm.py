"""Ghost batch-norm against loops over groups written out in plain Python."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import forward_pass_of, ghost_norms, has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.models.small import ResNet9
from largebatch.jobs.models.table import zero_init_residual

FLOAT64 = {"rtol": 1e-11, "atol": 1e-12}
"""Means over at most a dozen float64 numbers near 1, divided by deviations near 1."""

Rows = list[list[float]]


def ghost(norm: nn.Module, span: int) -> Any:
    """A norm that takes so many samples at a time, outside of any pass that was announced."""
    return use_ghost_batch_norm(norm, span)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 0.5


def new_norm(channels: int = 3, images: bool = False, **options: Any) -> Any:
    norm = (nn.BatchNorm2d if images else nn.BatchNorm1d)(channels, **options).double()
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2.0, channels))
            norm.bias.copy_(torch.linspace(-1.0, 1.0, channels))
    return norm


def plain_statistics(column: list[float]) -> tuple[float, float]:
    """Mean, and variance over n."""
    mean = math.fsum(column) / len(column)
    return mean, math.fsum((x - mean) ** 2 for x in column) / len(column)


def plain_loops(
    rows: Rows, upstream: Rows, span: int, weight: list[float], bias: list[float], momentum: float | None, epsilon: float
) -> dict[str, Any]:
    """Forward, gradients by the textbook formula, and the running statistics, moved group by group."""
    channels = len(weight)
    outputs, gradients = [[0.0] * channels for _ in rows], [[0.0] * channels for _ in rows]
    weight_gradient, bias_gradient = [0.0] * channels, [0.0] * channels
    running_mean, running_var = [0.0] * channels, [1.0] * channels
    for number, start in enumerate(range(0, len(rows), span), 1):
        group = range(start, min(start + span, len(rows)))
        size, share = len(group), 1 / number if momentum is None else momentum
        for c in range(channels):
            mean, variance = plain_statistics([rows[i][c] for i in group])
            deviation = math.sqrt(variance + epsilon)
            unit = {i: (rows[i][c] - mean) / deviation for i in group}
            mean_upstream = math.fsum(upstream[i][c] for i in group) / size
            mean_product = math.fsum(upstream[i][c] * unit[i] for i in group) / size
            for i in group:
                outputs[i][c] = unit[i] * weight[c] + bias[c]
                gradients[i][c] = weight[c] / deviation * (upstream[i][c] - mean_upstream - unit[i] * mean_product)
                weight_gradient[c] += upstream[i][c] * unit[i]
                bias_gradient[c] += upstream[i][c]
            running_mean[c] = (1 - share) * running_mean[c] + share * mean
            running_var[c] = (1 - share) * running_var[c] + share * variance * size / (size - 1)
    return {
        "outputs": outputs,
        "inputs": gradients,
        "weight": weight_gradient,
        "bias": bias_gradient,
        "running_mean": running_mean,
        "running_var": running_var,
    }


def assert_same(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=torch.float64), **FLOAT64)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize(("size", "span"), [(12, 4), (11, 4), (12, 5), (4, 4), (3, 4), (12, 2), (12, 100)])
def test_plain_loops(size: int, span: int, momentum: float | None) -> None:
    norm = ghost(new_norm(momentum=momentum, eps=1e-3), span)
    inputs, upstream = drawn(size, 3).requires_grad_(), drawn(size, 3, seed=1)
    outputs = norm(inputs)
    outputs.backward(upstream)
    expected = plain_loops(inputs.tolist(), upstream.tolist(), span, norm.weight.tolist(), norm.bias.tolist(), momentum, 1e-3)
    assert_same(outputs, expected["outputs"])
    assert_same(inputs.grad, expected["inputs"])
    assert_same(norm.weight.grad, expected["weight"])
    assert_same(norm.bias.grad, expected["bias"])
    assert_same(norm.running_mean, expected["running_mean"])
    assert_same(norm.running_var, expected["running_var"])
    assert norm.num_batches_tracked.item() == math.ceil(size / span)


def test_images_are_groups_of_samples_over_all_their_pixels() -> None:
    norm = ghost(new_norm(images=True), 3)
    images = drawn(8, 3, 2, 5)
    outputs = norm(images)
    for start, stop in ((0, 3), (3, 6), (6, 8)):
        for channel in range(3):
            pixels = images[start:stop, channel].flatten().tolist()
            mean, variance = plain_statistics(pixels)
            weight, bias = norm.weight[channel].item(), norm.bias[channel].item()
            expected = [(x - mean) / math.sqrt(variance + 1e-5) * weight + bias for x in pixels]
            assert_same(outputs[start:stop, channel].flatten(), expected)


def test_the_order_of_groups_counts_in_the_running_statistics() -> None:
    # The last group weighs most; a plain mean over groups, or one update per batch, would not see the order.
    inputs = torch.cat([torch.zeros(4, 1), torch.ones(4, 1)]).double()
    forth, back = (ghost(new_norm(1, momentum=0.5), 4) for _ in range(2))
    forth(inputs)
    back(inputs.flip(0))
    assert forth.running_mean.item() == pytest.approx(0.5, abs=1e-12)
    assert back.running_mean.item() == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("cuts", [[11], [4, 7], [8, 3], [4, 4, 3]], ids=str)
def test_micro_batches_cut_between_groups_change_nothing(cuts: list[int]) -> None:
    inputs, upstream = drawn(11, 3), drawn(11, 3, seed=1)
    whole, cut = ghost(new_norm(), 4), ghost(new_norm(), 4)
    at_once = whole(inputs)
    at_once.backward(upstream)
    parts = []
    for part, part_upstream in zip(inputs.split(cuts), upstream.split(cuts), strict=True):
        parts.append(cut(part))
        parts[-1].backward(part_upstream)
    assert torch.equal(torch.cat(parts), at_once)
    assert torch.equal(cut.running_mean, whole.running_mean)
    assert torch.equal(cut.running_var, whole.running_var)
    # Sums over groups, added in another order.
    torch.testing.assert_close(cut.weight.grad, whole.weight.grad, **FLOAT64)
    torch.testing.assert_close(cut.bias.grad, whole.bias.grad, **FLOAT64)


def test_one_group_is_torch_batch_norm() -> None:
    theirs, ours = new_norm(images=True), ghost(new_norm(images=True), 8)
    images = drawn(8, 3, 4, 4)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_groups_differ_from_the_whole_batch() -> None:
    inputs = drawn(8, 3)
    assert not torch.allclose(ghost(new_norm(), 4)(inputs), new_norm()(inputs), rtol=0.01)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}], ids=str)
def test_evaluation_is_torch_batch_norm(options: dict[str, Any]) -> None:
    theirs, ours = new_norm(**options), ghost(new_norm(**options), 4)
    ours(drawn(12, 3))
    theirs.load_state_dict(ours.state_dict())  # the same names, shapes and buffers
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    inputs = drawn(9, 3, seed=2)
    assert torch.equal(ours.eval()(inputs), theirs.eval()(inputs))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items()), "evaluation moved the statistics"


def test_without_running_statistics_evaluation_takes_the_groups() -> None:
    theirs, ours = new_norm(track_running_stats=False), ghost(new_norm(track_running_stats=False), 4)
    inputs = drawn(8, 3)
    assert torch.equal(ours.eval()(inputs), torch.cat([theirs.eval()(group) for group in inputs.split(4)]))


def test_every_norm_of_a_model_keeps_its_class_its_parameters_and_its_names() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4)))
    parameters, names, modules = list(model.parameters()), list(model.state_dict()), list(model.modules())
    assert has_batch_norm(model)
    assert use_ghost_batch_norm(model, 16) is model
    assert list(model.modules()) == modules
    assert isinstance(model[1], nn.BatchNorm2d)
    assert [type(norm).__name__ for norm in ghost_norms(model)] == ["BatchNorm2d", "BatchNorm1d"]
    assert "BatchNorm2d(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, span=16)" in repr(model)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    assert has_batch_norm(model)
    assert not has_batch_norm(nn.Sequential(nn.Linear(1, 1), nn.LayerNorm(1), nn.InstanceNorm1d(1)))


def test_a_copy_of_a_model_is_a_model_of_its_own() -> None:
    model = use_ghost_batch_norm(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)), 4)
    copied = copy.deepcopy(model)
    forward_pass_of(copied).begin(6)
    assert {id(norm.ghost.forward_pass) for norm in ghost_norms(copied)} == {id(forward_pass_of(copied))}
    assert forward_pass_of(model).num_samples is None


class NormAndActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a forward of its own around torch's arithmetic, and an activation."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, **options)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        is_batch = self.training or self.running_mean is None
        y = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, is_batch, self.momentum or 0.0, self.eps)
        return self.act(y)


class Named(nn.BatchNorm2d):
    """A batch-norm under another name; what it computes is torch's."""


@pytest.mark.parametrize("kind", [NormAndActivation, Named, nn.SyncBatchNorm])
def test_a_subclass_does_by_groups_what_it_does(kind: type[nn.Module]) -> None:
    theirs, ours = (kind(3).double() for _ in range(2))  # type: ignore[call-arg]
    if kind is nn.SyncBatchNorm:
        theirs = nn.BatchNorm2d(3).double()
    ours = ghost(ours, 4)
    assert isinstance(ours, kind)
    images = drawn(10, 3, 2, 2)
    outputs, expected = ours(images), torch.cat([theirs(group) for group in images.split(4)])
    assert torch.equal(outputs, expected)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


class Synchronised(nn.SyncBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class Dropping(nn.BatchNorm2d):
    def __init__(self) -> None:
        super().__init__(3)
        self.drop = nn.Dropout(0.1)


@pytest.mark.parametrize(
    ("norm", "why"),
    [(Synchronised(3), "synchronises its statistics"), (Dropping(), "has dropout inside"), (nn.LazyBatchNorm2d(), "has no size yet")],
    ids=lambda case: type(case).__name__,
)
def test_norms_of_another_kind_are_refused_by_name(norm: nn.Module, why: str) -> None:
    model = use_sample_dropout(nn.ModuleDict({"body": nn.Sequential(nn.Flatten(), norm)}))
    with pytest.raises(PlanError, match=rf"model: body\.1 is a {type(norm).__name__}, a batch-norm of another kind: it {why}"):
        use_ghost_batch_norm(model, 4)


def test_zero_init_residual_on_our_resnet9() -> None:
    torch.manual_seed(0)
    model = ResNet9(num_classes=10, in_channels=3, width=4)
    assert zero_init_residual(model) == 2
    block = model.features[2]
    images = drawn(4, 8, 6, 6).float()
    assert torch.equal(block(images), images), "a fresh block passes its input on"
    zeroed = [name for name, param in model.named_parameters() if param.ndim == 1 and not param.any() and name.endswith("weight")]
    assert zeroed == ["features.2.second.1.weight", "features.5.second.1.weight"]


@pytest.mark.parametrize(("name", "last", "blocks"), [("resnet18", "bn2", 8), ("resnet50", "bn3", 16)])
@pytest.mark.parametrize("as_ghost", [False, True])
def test_zero_init_residual_on_torchvision_resnets(name: str, last: str, blocks: int, as_ghost: bool) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.get_model(name, num_classes=10)
    if as_ghost:
        use_ghost_batch_norm(model, 8)
    assert zero_init_residual(model) == blocks
    norms = {path: module for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    zeroed = [path for path, norm in norms.items() if not norm.weight.any()]
    assert len(zeroed) == blocks
    assert all(path.endswith(last) and path.startswith("layer") for path in zeroed)


def test_zero_init_residual_finds_nothing_in_a_plain_chain() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert zero_init_residual(model) == 0
    assert model[1].weight.tolist() == [1.0, 1.0]
