"""Dropout by sample: masks against splitmix64 on Python's own integers, their statistics, and what they do not depend on."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from small_runs import Net
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts, set_dropout_keys, use_sample_dropout
from largebatch.jobs.samples.keyed_random import key
from largebatch.jobs.samples.slice import Slice

CPU = torch.device("cpu")
MASK, GOLDEN_RATIO = (1 << 64) - 1, 0x9E3779B97F4A7C15
NUM_SAMPLES, WIDTH = 400, 250


def replaced(dropout: nn.Module | None = None) -> Any:
    return use_sample_dropout(nn.Dropout(0.5) if dropout is None else dropout)


def dropped(model: nn.Module, inputs: Tensor, samples: Slice, seed: int = 0) -> Tensor:
    """The model's output for some samples of an epoch."""
    set_dropout_keys(sample_dropouts(model), seed, samples, CPU)
    return model(inputs)


def ones(*shape: int) -> Tensor:
    return torch.ones(NUM_SAMPLES, *shape)


def splitmix64(state: int) -> int:
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_a_mask_is_made_of_sixteen_bits_of_splitmix64_each() -> None:
    width, probability = 10, 0.3
    outputs = dropped(nn.Sequential(nn.Identity(), replaced(nn.Dropout(probability))), torch.ones(3, width), Slice(2, 7, 10), seed=5)
    for row, place in enumerate((7, 8, 9)):
        state = splitmix64(key(5, "dropout", 2) + place * GOLDEN_RATIO)
        words = [splitmix64(state + key("dropout", 0, 0) + number * GOLDEN_RATIO) for number in range(3)]
        pieces = [int.from_bytes(word.to_bytes(8, "little")[at : at + 2], "little", signed=True) for word in words for at in (0, 2, 4, 6)]
        expected = [0.0 if piece < round(probability * 65536) - 32768 else 1 / 0.7 for piece in pieces[:width]]
        assert outputs[row].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.3, 0.5, 0.75])
def test_so_many_are_dropped_and_the_others_scaled(probability: float) -> None:
    inputs = torch.randn(NUM_SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1)).exp()
    outputs = dropped(replaced(nn.Dropout(probability)), inputs, Slice(0, 0, NUM_SAMPLES))
    kept = outputs != 0
    torch.testing.assert_close(outputs[kept], inputs[kept] / (1 - probability))
    num = inputs.numel()
    # Binomial: five deviations; the 16 bits' rounding of p (2^-17 at most) is far below one.
    assert abs(int(kept.sum()) - num * (1 - probability)) < 5 * math.sqrt(num * probability * (1 - probability))
    # Each sample's and each position's own number as well: chi-square with that many degrees of freedom.
    for counts, of in ((kept.sum(1), WIDTH), (kept.sum(0), NUM_SAMPLES)):
        chi_square = float(((counts - of * (1 - probability)) ** 2 / (of * probability * (1 - probability))).sum())
        assert abs(chi_square - len(counts)) < 5 * math.sqrt(2 * len(counts))


def test_samples_positions_layers_runs_epochs_and_seeds_are_independent() -> None:
    first, second = use_sample_dropout(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))).children()

    def kept(layer: nn.Module, epoch: int = 0, seed: int = 0, start: int = 0) -> Tensor:
        return dropped(layer, ones(WIDTH), Slice(epoch, start, start + NUM_SAMPLES), seed) != 0

    base = kept(first)
    others = {
        "second run": first(ones(WIDTH)) != 0,
        "layer": kept(second),
        "epoch": kept(first, epoch=1),
        "seed": kept(first, seed=1),
        "later samples": kept(first, start=NUM_SAMPLES),
        "next sample": base.roll(1, 0),
        "next position": base.roll(1, 1),
        "next word": base.roll(4, 1),
        "next of both": base.roll((1, 4), (0, 1)),
    }
    masks = torch.stack([base.double().flatten(), *(mask.double().flatten() for mask in others.values())])
    correlations = torch.corrcoef(masks) - torch.eye(len(masks))
    # The correlation of independent draws has the deviation 1 / sqrt(n).
    assert float(correlations.abs().max()) < 5 / math.sqrt(base.numel()), dict(zip(others, correlations[0, 1:].tolist(), strict=True))


@pytest.mark.parametrize("cuts", [[0, 400], [0, 1, 400], [0, 200, 400], [0, 133, 134, 399, 400]])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, StochasticDepth])
def test_any_split_of_the_samples_drops_the_same(kind: Any, cuts: list[int]) -> None:
    model = nn.Sequential(replaced(kind(0.4, "row") if kind is StochasticDepth else kind(0.4)), nn.Identity())
    inputs = ones(6, 5) if kind is nn.Dropout1d else ones(6, 5, 2)
    whole = dropped(model, inputs, Slice(3, 1000, 1400))
    torch.manual_seed(99)  # whatever torch's own generator is at
    parts = [dropped(model, inputs[a:b], Slice(3, 1000 + a, 1000 + b)) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    assert 0 < int((whole == 0).sum()) < whole.numel()


@pytest.mark.parametrize(("theirs", "shape"), [(nn.Dropout1d(0.4), (6, 50)), (nn.Dropout2d(0.4), (6, 5, 10)), (nn.Dropout3d(0.4), (6, 2, 5, 5))])
def test_whole_channels_are_dropped(theirs: nn.Module, shape: tuple[int, ...]) -> None:
    by_channel = dropped(replaced(theirs), ones(*shape), Slice(0, 0, NUM_SAMPLES)).flatten(2)
    assert torch.equal(by_channel, by_channel[:, :, :1].expand_as(by_channel))
    num = by_channel.shape[0] * by_channel.shape[1]
    assert abs(int((by_channel[:, :, 0] == 0).sum()) - 0.4 * num) < 5 * math.sqrt(0.24 * num)


def of_library(module: str, name: str, **attributes: Any) -> nn.Module:
    """A module as a library that need not be there calls it; tests/equality/test_libraries.py has the real ones."""
    kind = type(name, (nn.Identity,), {"__module__": module, **attributes})
    return kind()


@pytest.mark.parametrize(
    "theirs",
    [
        StochasticDepth(0.4, "row"),
        of_library("timm.layers.drop", "DropPath", drop_prob=0.4, scale_by_keep=True),
        of_library("transformers.models.swin.modeling_swin", "SwinDropPath", drop_prob=0.4),
    ],
)
def test_stochastic_depth_drops_whole_samples(theirs: nn.Module) -> None:
    outputs = dropped(replaced(theirs), ones(6, 5), Slice(0, 0, NUM_SAMPLES)).flatten(1)
    assert torch.equal(outputs, outputs[:, :1].expand_as(outputs))
    assert abs(int((outputs[:, 0] == 0).sum()) - 0.4 * NUM_SAMPLES) < 5 * math.sqrt(0.24 * NUM_SAMPLES)
    kept = outputs[outputs != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.6))


@pytest.mark.parametrize(
    "theirs",
    [
        StochasticDepth(0.4, "batch"),  # one decision for a whole batch is no sample's own
        of_library("timm.layers.drop", "DropPath", drop_prob=0.4, scale_by_keep=False),
        of_library("a_stranger", "DropPath", drop_prob=0.4),
    ],
)
def test_other_kinds_stay_what_they_are(theirs: nn.Module) -> None:
    assert replaced(theirs) is theirs


def test_the_gradient_is_dropped_and_scaled_alike() -> None:
    inputs = torch.randn(NUM_SAMPLES, WIDTH, requires_grad=True)
    outputs = dropped(replaced(nn.Dropout(0.2)), inputs, Slice(0, 0, NUM_SAMPLES))
    (gradient,) = torch.autograd.grad(outputs.sum(), [inputs])
    assert torch.equal(gradient, torch.where(outputs == 0, 0.0, torch.tensor(1 / 0.8)))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_nothing_and_everything(probability: float) -> None:
    inputs = torch.randn(NUM_SAMPLES, 3, requires_grad=True)
    outputs = dropped(replaced(nn.Dropout(probability)), inputs, Slice(0, 0, NUM_SAMPLES))
    assert torch.equal(outputs, inputs * (1 - probability))
    (gradient,) = torch.autograd.grad(outputs.sum(), [inputs])
    assert torch.equal(gradient, torch.full_like(inputs, 1 - probability))


def test_in_place_in_half_precision_and_channels_last() -> None:
    images = torch.randn(8, 6, 4, 4)
    expected = dropped(replaced(), images, Slice(0, 0, 8))
    images_last = images.to(memory_format=torch.channels_last)
    outputs = dropped(replaced(nn.Dropout(0.5, inplace=True)), images_last, Slice(0, 0, 8))
    assert outputs.data_ptr() == images_last.data_ptr()
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(outputs, expected)
    narrow = dropped(replaced(), images.bfloat16(), Slice(0, 0, 8))
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow == 0, expected == 0)


def test_in_evaluation_it_is_the_identity() -> None:
    model = replaced()
    set_dropout_keys([model], 0, Slice(0, 0, 4), CPU)
    inputs = torch.randn(4, 5)
    assert model.eval()(inputs) is inputs


def test_tokens_of_samples_in_order_are_the_samples() -> None:
    """(n, tokens, width) flattened to (n * tokens, width), as many models do before their dense layers."""
    tokens = ones(3, 5)
    whole = dropped(replaced(), tokens.flatten(0, 1), Slice(0, 0, NUM_SAMPLES))
    parts = [dropped(replaced(), tokens[a:b].flatten(0, 1), Slice(0, a, b)) for a, b in ((0, 7), (7, NUM_SAMPLES))]
    assert torch.equal(torch.cat(parts), whole)


def test_what_belongs_to_no_announced_samples_is_torchs_own() -> None:
    for model, inputs in ((replaced(), ones(5)), (replaced(), torch.ones(NUM_SAMPLES + 1, 5)), (replaced(), torch.tensor(1.0))):
        if inputs.shape[:1] != (NUM_SAMPLES,):
            set_dropout_keys([model], 0, Slice(0, 0, NUM_SAMPLES), CPU)
        torch.manual_seed(3)
        outputs = model(inputs)
        torch.manual_seed(3)
        assert torch.equal(outputs, functional.dropout(inputs, 0.5))


def shared(model: Any, inputs: Tensor, again: dict[str, Any] | None = None) -> Tensor:
    """One dropout after each of two layers, both run again in the backward pass where `again` says how."""
    for layer in (model.first, model.second):
        part = lambda inputs, layer=layer: model.dropout(layer(inputs).tanh())  # noqa: E731
        inputs = part(inputs) if again is None else checkpoint(part, inputs, **again)
    return inputs


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_draws_the_same_again(reentrant: bool) -> None:
    torch.manual_seed(0)
    model, inputs = (
        use_sample_dropout(Net(shared, first=nn.Linear(6, 6), second=nn.Linear(6, 6), dropout=nn.Dropout(0.5))),
        torch.randn(9, 6, requires_grad=True),
    )
    passes = []
    for again in (None, {"use_reentrant": reentrant}):
        set_dropout_keys(sample_dropouts(model), 0, Slice(0, 0, 9), CPU)
        model.zero_grad()
        inputs.grad = None
        outputs = model(inputs, again)
        outputs.square().sum().backward()
        passes.append([outputs, inputs.grad, *(parameter.grad for parameter in model.parameters())])
    for tensor, other in zip(*passes, strict=True):
        assert torch.equal(tensor, other)


def test_a_layer_that_runs_twice_draws_twice_and_the_next_pass_begins_anew() -> None:
    model = replaced()
    first, second = dropped(model, ones(WIDTH), Slice(0, 0, NUM_SAMPLES)), model(ones(WIDTH))
    assert not torch.equal(first, second)
    assert torch.equal(dropped(model, ones(WIDTH), Slice(0, 0, NUM_SAMPLES)), first)
    assert torch.equal(model(ones(WIDTH)), second)


def test_compiled_it_draws_the_same() -> None:
    """Traced whole, and not anew for other samples. (The backend that runs what was traced as it is.)"""
    model = use_sample_dropout(nn.Sequential(nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.3)))
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for epoch, start in ((0, 0), (0, 400), (1, 0)):
            expected = dropped(model, ones(7), Slice(epoch, start, start + NUM_SAMPLES))
            set_dropout_keys(sample_dropouts(model), 0, Slice(epoch, start, start + NUM_SAMPLES), CPU)
            assert torch.equal(compiled(ones(7)), expected)


class OwnDropout(nn.Dropout):
    """A person's own, of which nothing is known."""


def test_what_is_replaced_and_what_is_not() -> None:
    shared, own = nn.Dropout(0.1), OwnDropout(0.2)
    model = nn.ModuleDict({
        "flat": nn.Sequential(nn.Linear(3, 3), nn.Dropout2d(0.3), shared, own, nn.AlphaDropout(0.4)), "again": nn.Sequential(shared, shared),
    })  # fmt: skip
    keys = list(model.state_dict())
    assert use_sample_dropout(model) is model
    assert list(model.state_dict()) == keys, "checkpoints of before fit"
    dropouts = sample_dropouts(model)
    assert [(module.p, module.layer) for module in dropouts] == [(0.3, 0), (0.1, 1)]
    assert model["flat"][2] is model["again"][0] is model["again"][1] is dropouts[1]
    assert model["flat"][3] is own
    assert isinstance(model["flat"][4], nn.AlphaDropout)
    assert use_sample_dropout(model) is model
    assert sample_dropouts(model) == dropouts
    assert isinstance(replaced(), SampleDropout)
    assert not replaced(nn.Dropout().eval()).training


def test_a_copy_draws_the_same_for_itself() -> None:
    model = use_sample_dropout(nn.Sequential(nn.Dropout(0.5)))
    other = copy.deepcopy(model)
    expected = dropped(model, ones(5), Slice(0, 0, NUM_SAMPLES))
    assert torch.equal(dropped(other, ones(5), Slice(0, 0, NUM_SAMPLES)), expected)
    assert not torch.equal(dropped(other, ones(5), Slice(1, 0, NUM_SAMPLES)), dropped(model, ones(5), Slice(0, 0, NUM_SAMPLES)))
