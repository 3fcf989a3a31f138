"""Every model of the table builds, runs and trains; sizes against the papers; same seed, same weights."""

import hashlib
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from largebatch.jobs.errors import SpecError
from largebatch.jobs.models.table import OURS, build_model
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import ModelSpec

SMALL_IMAGES = (3, 32, 32)
SMALL_ARGUMENTS: dict[str, dict[str, Any]] = {"resnet9": {"width": 8}, "keskar-f1": {"width": 32}}


def build(name: str, shape: tuple[int, ...] = SMALL_IMAGES, num_classes: int = 10, seed: int = 0, **options: Any) -> nn.Module:
    return build_model(ModelSpec(name=name, **options), Dataset("any", [], [], num_classes, shape), seed)


def num_parameters(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", sorted(OURS.keys() - {"transformer", "transformer-encoder", "two-towers", "simclr"}))
def test_it_builds_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(name, num_classes=7, arguments=SMALL_ARGUMENTS.get(name, {}))
    logits = model(torch.randn(2, *SMALL_IMAGES, generator=torch.Generator().manual_seed(1)))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    logits.logsumexp(dim=1).sum().backward()
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize("name", ["two-towers", "simclr"])
def test_what_gives_two_embeddings_gives_every_parameter_a_gradient(name: str) -> None:
    facts = {"vocabulary_size": 256, "sequence_length": 9} if name == "two-towers" else {}
    model = build_model(ModelSpec(name=name, arguments={"width": 8}), Dataset("any", [], [], 10, SMALL_IMAGES, for_model=facts), 0)
    images = torch.randn(4, *SMALL_IMAGES, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[97, 98, 0, 0, 0, 0, 0, 0, 0], [97, 98, 0, 0, 0, 0, 0, 0, 0], list(range(1, 10)), list(range(9, 0, -1))])
    outputs = model(images, tokens if name == "two-towers" else images.flip(3))
    assert [tuple(outputs[side].shape) for side in ("first", "second", "representation")] == [(4, 64), (4, 64), (4, 32)]
    sum(output.square().sum() for output in outputs.values()).backward()
    assert all(param.grad is not None and bool(param.grad.abs().sum() > 0) for param in model.parameters())
    if name == "two-towers":  # padding is not read; the order of letters is
        assert torch.equal(outputs["second"][0], outputs["second"][1])
        assert not torch.allclose(outputs["second"][2], outputs["second"][3])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (5,)),
        ("mlp", (1, 8, 8)),
        ("lenet", (1, 8, 8)),
        ("lenet", (1, 28, 28)),
        ("lenet", (3, 30, 30)),
        ("lenet", (3, 4, 4)),
        ("resnet9", (1, 8, 8)),
        ("resnet9", (3, 9, 17)),
        ("keskar-f1", (1, 28, 28)),
        ("keskar-c1", (1, 28, 28)),
        ("keskar-c1", (3, 33, 33)),
        ("keskar-c1", (2, 5, 5)),
        ("keskar-c2", (3, 33, 33)),
        ("keskar-c4", (1, 64, 64)),
    ],
    ids=str,
)
def test_other_shapes(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, arguments=SMALL_ARGUMENTS.get(name, {}))
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "count"),
    [
        # Five layers of 512 with bias, a batch-norm after each, and ten outputs.
        ("keskar-f1", (1, 28, 28), 10, 784 * 512 + 4 * 512 * 512 + 5 * 3 * 512 + 512 * 10 + 10),
        # 5x5 convolutions 3-64-64, then 64 x 8 x 8 - 384 - 192 - 10; each layer but the last with bias and batch-norm.
        ("keskar-c1", SMALL_IMAGES, 10, 75 * 64 + 1600 * 64 + 4096 * 384 + 384 * 192 + 3 * (64 + 64 + 384 + 192) + 192 * 10 + 10),
        ("keskar-c3", SMALL_IMAGES, 100, 75 * 64 + 1600 * 64 + 4096 * 384 + 384 * 192 + 3 * (64 + 64 + 384 + 192) + 192 * 100 + 100),
    ],
)
def test_parameter_counts_by_hand(name: str, shape: tuple[int, ...], num_classes: int, count: int) -> None:
    assert num_parameters(build(name, shape, num_classes)) == count


def test_vgg_has_the_parameters_of_its_thirteen_convolutions() -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * before * after for before, after in itertools.pairwise(widths))
    rest = 3 * sum(widths[1:]) + 512 * 512 + 3 * 512 + 512 * 10 + 10
    assert num_parameters(build("keskar-c2")) == convolutions + rest


@pytest.mark.parametrize(("name", "millions"), [("keskar-c1", 1.76), ("keskar-c2", 15.0)])
def test_sizes_are_those_the_papers_code_is_known_for(name: str, millions: float) -> None:
    assert num_parameters(build(name)) == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet9", "keskar-c1"])
def test_the_seed_alone_draws_the_weights(name: str) -> None:
    arguments = SMALL_ARGUMENTS.get(name, {})
    first = fingerprint(build(name, seed=3, arguments=arguments))
    torch.rand(17)  # draws in between do not matter
    before = torch.get_rng_state()
    assert fingerprint(build(name, seed=3, arguments=arguments)) == first
    assert torch.equal(torch.get_rng_state(), before), "building a model moved the caller's draws"
    assert fingerprint(build(name, seed=4, arguments=arguments)) != first


def test_channels_last_changes_the_layout_and_no_weight() -> None:
    plain, other = build("lenet"), build("lenet", channels_last=True)
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(one, two) for one, two in zip(plain.parameters(), other.parameters(), strict=True))


def test_arguments_arrive() -> None:
    model = build("mlp", (6,), num_classes=3, arguments={"width": 5, "depth": 2, "batch_norm": True})
    assert num_parameters(model) == 6 * 5 + 5 + 5 * 5 + 5 + 2 * 2 * 5 + 5 * 3 + 3
    smooth = build("mlp", (6,), num_classes=3, arguments={"depth": 2, "activation": "tanh"})
    assert [type(layer).__name__ for layer in smooth][1:] == ["Linear", "Tanh"] * 2 + ["Linear"]
    # 0.5 is a power of two: exactly half of the default's eighth times four.
    images = torch.ones(2, *SMALL_IMAGES)
    eighth, half = (build("resnet9", arguments={"width": 8, "logit_scale": scale}).eval()(images) for scale in (0.125, 0.5))
    assert torch.equal(4 * eighth, half)


def test_zero_init_residual() -> None:
    model = build("resnet9", arguments={"width": 8}, zero_init_residual=True)
    assert sum(not param.any() for name, param in model.named_parameters() if name.endswith("weight")) == 2
    with pytest.raises(SpecError) as caught:
        build("lenet", zero_init_residual=True)
    assert caught.value.field == "model.zero_init_residual"


def test_torchvision_models_by_name() -> None:
    pytest.importorskip("torchvision")
    model = build("squeezenet1_1", (3, 64, 64), num_classes=4)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(("name", "near"), [("resnet81", "resnet18"), ("renset9", "resnet9"), ("keskar_c1", "keskar-c1"), ("Lenet", "lenet")])
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(SpecError) as caught:
        build(name)
    assert caught.value.field == "model.name"
    assert name in caught.value.problem
    assert near in caught.value.hint


def test_a_name_like_no_other_lists_what_there_is() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(SpecError) as caught:
        build("qqqqqqqqqqq")
    assert all(name in caught.value.hint for name in [*OURS, "torchvision"])


@pytest.mark.parametrize(
    ("name", "shape", "options", "field", "sentence"),
    [
        ("mlp", (6,), {"arguments": {"widht": 5}}, "model.arguments.widht", "width"),
        ("mlp", (6,), {"arguments": {"width": 0}}, "model.arguments.width", "above 0, not 0"),
        ("mlp", (6,), {"arguments": {"depth": -1}}, "model.arguments.depth", "above 0, not -1"),
        ("mlp", (6,), {"arguments": {"in_features": 5}}, "model.arguments.in_features", "width"),  # the data says it
        ("keskar-c1", SMALL_IMAGES, {"arguments": {"width": 5}}, "model.arguments.width", "no arguments"),
        ("mlp", (6,), {"arguments": {"width": "wide"}}, "model.arguments", "mlp"),
        ("mlp", (6,), {"arguments": {"activation": "swish"}}, "model.arguments", "relu, gelu, tanh, not 'swish'"),
        ("lenet", (6,), {}, "model.name", "images"),
        ("lenet", (1, 3, 3), {}, "model.name", "4x4"),
        ("lenet", (1, 8, 12), {}, "model.name", "square"),
        ("resnet9", (3, 7, 32), {}, "model.name", "8x8"),
        ("keskar-c2", (3, 28, 28), {}, "model.name", "32x32"),
        ("resnet18", SMALL_IMAGES, {"arguments": {"colour": 5}}, "model.arguments", "colour"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_by_field(name: str, shape: tuple[int, ...], options: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(name, shape, **options)
    assert caught.value.field == field
    assert sentence in str(caught.value)
