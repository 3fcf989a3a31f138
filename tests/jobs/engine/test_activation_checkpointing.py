"""Blocks that run once more in the backward pass: every number is the one of a run that keeps all, and what cannot be is refused by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Net, losses, notices, parameters, prepared, same, synthetic, trained
from torch import Tensor, nn

from largebatch.jobs.engine.gradient.activation_checkpointing import repeated_blocks, use_activation_checkpointing
from largebatch.jobs.engine.warm_up import activation_bytes_per_sample
from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.models.small import ResNet9
from largebatch.jobs.models.transformer import decoder

IMAGES = synthetic(num_train=32, num_test=4, shape=(3, 8, 8))
VECTORS = synthetic(shape=(1, 2, 3))
TOKENS = {"dataset": {"entry_point": "own_tasks:documents"}, "task": {"name": "language-modelling"}}
SPLIT = {"batch": {"global_batch_size": 16, "micro_batch_size": 8}, "batch_norm": {"span": 8}}
CASES: dict[str, dict[str, Any]] = {
    "batch-norm": {"dataset": IMAGES, "model": {"name": "resnet9", "arguments": {"width": 4}}, **SPLIT},
    "dropout by sample": {
        **TOKENS,
        **SPLIT,
        "model": {"name": "transformer", "arguments": {"width": 16, "depth": 3, "num_heads": 2, "dropout": 0.3}},
    },
    "noise from the norms": {
        **TOKENS,
        **SPLIT,
        "gradient": {"noise_from": "norms"},
        "model": {"name": "transformer", "arguments": {"width": 16, "num_heads": 2}},
    },
    "bfloat16": {"dataset": IMAGES, "model": {"name": "resnet9", "arguments": {"width": 4}}, **SPLIT, "precision": "bfloat16"},
    "torchvision": {"dataset": IMAGES, "model": {"name": "shufflenet_v2_x0_5"}, **SPLIT},
    "transformers, attention's own dropout": {
        **TOKENS,
        "model": {"name": "transformers:GPT2LMHeadModel", "arguments": {"n_layer": 2, "n_embd": 16, "n_head": 2}},
        "batch": {"global_batch_size": 16, "micro_batch_size": 16},
        "gradient": {"noise_every_steps": 0},
    },
    "two passes": {
        "task": {"name": "contrastive"},
        "dataset": {"entry_point": "own_tasks:views"},
        "model": {"entry_point": "own_tasks:Towers"},
        "batch": {"global_batch_size": 16, "micro_batch_size": 5},
    },
    "two passes, dropout and norms": {
        "task": {"name": "contrastive"},
        "dataset": {"entry_point": "own_tasks:views"},
        "model": {"entry_point": "own_code:towers"},
        "gradient": {"noise_every_steps": 0},
        **SPLIT,
    },
    "a person's own, norms that run twice": {"dataset": VECTORS, "model": {"entry_point": "own_code:siamese"}, **SPLIT},
}
PATTERNS = {"two passes": ["first", "second"], "two passes, dropout and norms": ["first", "second"], "a person's own, norms that run twice": ["part"]}


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])


def twice(model: Any, inputs: Tensor) -> Tensor:
    return model.head(model.part(model.part(inputs.flatten(1))))


def siamese(num_classes: int) -> nn.Module:
    part = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Dropout(0.4))
    return Net(twice, part=part, head=nn.Linear(6, num_classes))


def towers() -> nn.Module:
    sides = {side: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 4)) for side in ("first", "second")}
    return Net(lambda model, first, second: (model.first(first), model.second(second)), **sides)


def again(case: dict[str, Any], chosen: Any = True) -> dict[str, Any]:
    return {**case, "model": {**case["model"], "activation_checkpointing": chosen}}


@pytest.mark.parametrize("name", CASES)
def test_every_number_is_the_one_of_a_run_that_keeps_all(name: str, tmp_path: Path) -> None:
    """Weights, running statistics and losses, bit for bit, in several micro-batches."""
    case = {**CASES[name], "stop": {"steps": 3}, "learning_rate": {"base": 0.1}}
    whole = trained(prepared(**case), tmp_path / "whole")
    summary = trained(prepared(**again(case, PATTERNS.get(name, True))), tmp_path / "again")
    assert summary.parameters_sha256 == whole.parameters_sha256
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")
    assert (summary.score, summary.gradient_noise_scale) == (whole.score, whole.gradient_noise_scale)
    assert list(parameters(tmp_path / "again")) == list(parameters(tmp_path / "whole")), "the names in a checkpoint"
    assert any(text.startswith("Activation checkpointing: ") for text in notices(tmp_path / "again"))


def test_a_run_may_go_on_with_it(tmp_path: Path) -> None:
    case = {**CASES["batch-norm"], "stop": {"steps": 4}}
    whole = trained(prepared(**case), tmp_path / "whole")
    trained(prepared(**{**case, "stop": {"steps": 2}}), tmp_path / "parts")
    assert trained(prepared(**again(case)), tmp_path / "parts", resumes=True).parameters_sha256 == whole.parameters_sha256
    assert same(parameters(tmp_path / "parts"), parameters(tmp_path / "whole"))


def test_the_micro_batch_that_is_found_sees_the_smaller_memory() -> None:
    """Against the inputs of eight blocks, and what one block keeps by itself."""
    width, length, depth = 16, 32, 8
    model = {"name": "transformer", "arguments": {"width": width, "depth": depth, "num_heads": 2}}
    tokens = {**TOKENS, "dataset": {"entry_point": "own_code:long_documents", "arguments": {"length": length}}}
    jobs = [prepared(**{**tokens, "model": {**model, "activation_checkpointing": chosen}}) for chosen in (False, True)]
    whole, fewer = (activation_bytes_per_sample(job.spec, job.task, job.model, job.dataset) for job in jobs)
    block = decoder(9, length, width, depth, 2).blocks[0]
    sizes: dict[int, int] = {}
    hidden, rotation = torch.randn(1, length, width, requires_grad=True), jobs[0].model.rotation
    own = {parameter.data_ptr() for parameter in block.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = block(hidden, rotation)
    one_block, inputs = sum(sizes.values()), hidden.nbytes
    assert output.shape == hidden.shape
    assert whole > depth * (one_block - inputs - rotation.nbytes)
    beside = whole - depth * (one_block - rotation.nbytes)
    assert fewer == pytest.approx(depth * inputs + one_block + beside, rel=0.2)
    assert fewer < whole / 3


def long_documents(length: int) -> Any:
    from torch.utils.data import TensorDataset

    sets = [TensorDataset(*(torch.arange(first, first + length).repeat(size, 1) % 9 for first in (0, 1))) for size in (16, 4)]
    for part in sets:
        part.vocabulary_size, part.sequence_length = 9, length  # type: ignore[attr-defined]
    return sets


def test_blocks_keep_class_place_and_names() -> None:
    plain, model = ResNet9(4, 3, 4), ResNet9(4, 3, 4)
    assert use_activation_checkpointing(model, True) == (
        "Activation checkpointing: 6 blocks (features.0 ... features.5), run once more in the backward pass."
    )
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(module).__qualname__ for module in model.modules()] == [type(module).__qualname__ for module in plain.modules()]
    assert all(isinstance(module, type(other)) for module, other in zip(model.modules(), plain.modules(), strict=True))
    inputs = torch.randn(2, 3, 8, 8)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model.eval()(inputs), plain.eval()(inputs))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"]),
        ("vit_b_16", [f"encoder.layers.encoder_layer_{number}" for number in range(12)]),
        ("mobilenet_v3_small", [f"features.{number}" for number in range(13)]),
    ],
)
def test_true_means_the_blocks_that_a_model_is_a_row_of(name: str, blocks: list[str]) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        assert list(repeated_blocks(get_model(name))) == blocks


def test_patterns_name_modules_the_outermost_of_those_within_each_other() -> None:
    model = decoder(9, 8, 16, 4, 2)
    assert "2 blocks (blocks.1 ... blocks.3)" in use_activation_checkpointing(model, ["blocks.[13]*"])
    with pytest.raises(SpecError, match=r"'blocks' matches no module of this model that runs\. Did you mean blocks\.[0-3] or blocks\.[0-3]"):
        use_activation_checkpointing(model, ["blocks.0", "blocks"])


def counting(num_classes: int) -> nn.Module:
    """Moves a buffer with each run."""

    def forward(part: Any, inputs: Tensor) -> Tensor:
        if part.training:
            part.runs += 1
        return part.layer(inputs).tanh()

    return nn.Sequential(nn.Flatten(), Net(forward, layer=nn.Linear(6, 6), runs=torch.zeros(())), nn.Linear(6, num_classes))


def remembering(num_classes: int) -> nn.Module:
    """A block that is another function in its second run of a pass, by what no buffer tells; every pass is like the one before."""

    def part(part: Any, inputs: Tensor) -> Tensor:
        part.runs += 1
        return part.layer(inputs * part.runs).tanh()

    def whole(model: Any, inputs: Tensor) -> Tensor:
        model.parts[0].runs = 0
        return model.head(model.parts[0](inputs.flatten(1)))

    return Net(whole, parts=nn.ModuleList([Net(part, layer=nn.Linear(6, 6))]), head=nn.Linear(6, num_classes))


def overwriting(num_classes: int) -> nn.Module:
    """A block that changes its input in place."""
    part = Net(lambda part, inputs: part.layer(inputs.mul_(2.0)).tanh(), layer=nn.Linear(6, 6))
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 6), part, nn.Linear(6, num_classes))


def normed(num_classes: int) -> nn.Module:
    """Spectral norm: each run in training takes a step of power iteration."""
    part = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Tanh())
    return nn.Sequential(nn.Flatten(), part, nn.Linear(6, num_classes))


def unused(num_classes: int) -> nn.Module:
    return Net(
        lambda model, inputs: model.head(model.part[0](inputs.flatten(1))), part=nn.Sequential(nn.Linear(6, 6)), head=nn.Linear(6, num_classes)
    )


@pytest.mark.parametrize(
    ("build", "chosen", "words"),
    [
        ("counting", True, "the buffer 1.runs is another one where blocks run once more"),
        ("remembering", True, "the gradient of parts.0.layer.weight is another one"),
        ("overwriting", True, "blocks cannot run once more in the backward pass: .* modified by an inplace operation"),
        ("normed", True, "the (buffer|gradient of) 1.0.parametrizations.weight"),
        ("unused", ["part"], "no block runs in training by its own call"),
    ],
)
def test_what_another_run_would_change_is_refused_by_name(build: str, chosen: Any, words: str) -> None:
    case = {"dataset": VECTORS, "model": {"entry_point": f"own_code:{build}"}}
    prepared(**case)
    with pytest.raises(PlanError, match=words) as refused:
        prepared(**again(case, chosen))
    assert refused.value.field == "model.activation_checkpointing"


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(SpecError, match=r"this model \(Sequential\) has no row of blocks"):
        prepared(**again({"model": {"name": "mlp"}}))
    patched = decoder(9, 8, 16, 2, 2)
    patched.blocks[0].forward = patched.blocks[1].forward  # type: ignore[method-assign]
    with pytest.raises(SpecError, match=r"blocks\.0 is not run by the forward of its class"):
        use_activation_checkpointing(patched, True)
    with pytest.raises(SpecError, match="compile chooses itself"):
        prepared(**again(CASES["batch-norm"]), compile=True)
    for chosen in ([], "blocks.*", 3):
        with pytest.raises(SpecError, match=r"model\.activation_checkpointing"):
            prepared(**again(CASES["batch-norm"], chosen))
