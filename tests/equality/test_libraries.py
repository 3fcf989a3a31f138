"""Models of transformers, torchvision and timm as they are: k micro-batches, even or uneven, give the gradient of one batch."""

import math
from typing import Any

import pytest
import torch
from small_runs import InOrder, planned, state_of
from torch import Tensor

from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.models.norms.ghost_batch_norm import has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.models.table import build_model
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import ModelSpec
from largebatch.jobs.tasks.classification import Classification

BATCH, SPAN, SIZE, NUM_CLASSES = 24, 8, 32, 4
RATES = {"hidden_dropout_prob", "drop_path_rate", "stochastic_depth_prob"}
ROUNDING = 2.0**-24
TINY = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2]}

MODELS: dict[str, dict[str, Any]] = {
    "transformers: ViT, hidden dropout": {"name": "transformers:ViTForImageClassification", "arguments": {**TINY, "hidden_dropout_prob": 0.2}},
    "transformers: Swin, stochastic depth": {
        "name": "transformers:SwinForImageClassification",
        "arguments": {**SWIN, "window_size": 4, "patch_size": 4, "drop_path_rate": 0.5},
    },
    "torchvision: shuffled channels": {"name": "shufflenet_v2_x0_5"},
    "torchvision: squeeze and excitation": {"name": "mobilenet_v3_small"},
    "torchvision: Swin, stochastic depth": {
        "entry_point": "torchvision.models.swin_transformer:SwinTransformer",
        "arguments": {**SWIN, "patch_size": [4, 4], "window_size": [4, 4], "stochastic_depth_prob": 0.5},
    },
    "timm: EfficientNet": {"name": "timm:test_efficientnet"},
    "timm: EfficientNet, group norm": {"name": "timm:test_efficientnet_gn"},
    "timm: ResNet, stochastic depth": {"name": "timm:test_resnet", "arguments": {"drop_path_rate": 0.5}},
    "timm: ViT, stochastic depth": {"name": "timm:test_vit", "arguments": {"drop_path_rate": 0.5}},
}


def batch_of() -> InOrder:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) + labels[:, None, None, None]
    return InOrder(images, labels)


def gradient_of(spec: dict[str, Any], micro_batch_size: int) -> tuple[float, Tensor]:
    """The engine's (loss, gradient of all weights in a row) of the batch."""
    model = build_model(ModelSpec(**spec), Dataset("any", [], [], NUM_CLASSES, (3, SIZE, SIZE)), seed=1)
    model = use_sample_dropout(model.double().train())
    normalises = has_batch_norm(model)
    use_ghost_batch_norm(model, SPAN if normalises else None)
    batch = {"global_batch_size": BATCH, "micro_batch_size": micro_batch_size}
    plan = planned(BATCH, normalises, batch=batch, batch_norm={"span": SPAN} if normalises else {}, gradient={"noise_every_steps": 0})
    state = state_of(model, build_optimizer(model, plan.spec.optimizer), micro_batch_size, task=Classification(NUM_CLASSES, 0.0))
    accumulated = accumulate(state, plan.spec, plan.step_at(Position(0, 0)), batch_of())
    assert accumulated.num_pieces == math.ceil(BATCH / micro_batch_size)
    return accumulated.loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("name", MODELS)
def test_micro_batches_give_the_gradient_of_the_batch(name: str) -> None:
    """The model is float64, and its logits go to the loss in float32 by promise: one that rounds the other way moves its sample's gradient by 2^-24.

    A mask that belonged to the micro-batch would change the gradient by some of itself.
    """
    if name.startswith("timm"):
        pytest.importorskip("timm")
    loss, whole = gradient_of(MODELS[name], BATCH)
    assert float(whole.norm()) > 0
    for micro_batch_size in (16, 8):
        other_loss, other = gradient_of(MODELS[name], micro_batch_size)
        assert other_loss == pytest.approx(loss, rel=4 * BATCH * ROUNDING)
        assert float((other - whole).norm()) <= 4 * ROUNDING * float(whole.norm())


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if RATES & spec.get("arguments", {}).keys()])
def test_what_is_dropped_changes_the_gradient(name: str) -> None:
    """So the test above has something to find."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    spec = MODELS[name]
    without = {option: 0.0 if option in RATES else value for option, value in spec["arguments"].items()}
    gradients = [gradient_of({**spec, "arguments": arguments}, BATCH)[1] for arguments in (spec["arguments"], without)]
    assert float((gradients[0] - gradients[1]).norm()) > 1e-2 * float(gradients[1].norm())
