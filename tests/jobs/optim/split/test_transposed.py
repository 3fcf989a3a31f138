"""Weights that lie (in, out) train as those of the nn.Linear that does the same: GPT-2's Conv1D, transposed convolutions."""

import copy
import sys
from typing import Any

import pytest
import torch
from small_runs import Net, prepared
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from largebatch.jobs.optim.config_base import Kind
from largebatch.jobs.optim.configs.muon import MuonConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS, OptimizerConfig
from largebatch.jobs.optim.dual_norm import DualNorm
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.jobs.optim.split.heads import head_weights, layers_seen
from largebatch.jobs.optim.split.kinds import kinds_of, transposed_in

SIZES = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 6, "vocab_size": 5, "bos_token_id": 0, "eos_token_id": 0}
"""Of a GPT-2."""
FORMS = ["original", "match_rms_adamw", "spectral_unclamped"]


class Conv1D(nn.Module):
    """GPT-2's linear layer, as models' own copies of it are. Args: nf: outputs; nx: inputs."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(0.3 * torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


def as_linear(layer: Any) -> nn.Linear:
    """The nn.Linear that does what a Conv1D does."""
    num_inputs, num_outputs = layer.weight.shape
    linear = nn.Linear(num_inputs, num_outputs, dtype=layer.weight.dtype)
    linear.weight.data.copy_(layer.weight.data.T)
    linear.bias.data.copy_(layer.bias.data)
    return linear


def block() -> nn.Module:
    """A block of transformers' GPT-2, whose four layers are 24 x 8, 8 x 8, 32 x 8 and 8 x 32 matrices."""
    modeling = pytest.importorskip("transformers.models.gpt2.modeling_gpt2")
    config = modeling.GPT2Config(**SIZES, attn_pdrop=0.0, resid_pdrop=0.0, attn_implementation="eager")
    torch.manual_seed(3)
    made: nn.Module = modeling.GPT2Block(config, layer_idx=0).double()
    return made


def with_linears(model: nn.Module) -> nn.Module:
    """A copy in which each Conv1D is the nn.Linear that does the same."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Conv1D":
                setattr(module, name, as_linear(child))
    return model


def trained(model: nn.Module, config: OptimizerConfig, num_steps: int = 6) -> dict[str, Tensor]:
    """The parameters by their names, those of every Conv1D as nn.Linear has them."""
    optimizer = build_optimizer(model, config)
    for step in range(num_steps):
        generator = torch.Generator().manual_seed(step)
        x, target = (torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
        output = model(x)
        functional.mse_loss(output[0] if isinstance(output, tuple) else output, target).backward()
        set_learning_rate(optimizer, 0.05 / (1 + step))
        optimizer.step()
        optimizer.zero_grad()
    transposed = transposed_in(model)
    return {name: param.detach().T if param in transposed else param.detach() for name, param in model.named_parameters()}


def furthest(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    assert got.keys() == want.keys()
    return max(float((got[name] - value).abs().max()) for name, value in want.items())


@pytest.mark.parametrize(
    "options",
    [
        *({"name": "muon", "adjust_lr_fn": form, "weight_decay": 0.1} for form in FORMS),
        {"name": "shampoo"},
    ],
    ids=str,
)
def test_gpt_2s_layers_train_as_linear_layers_that_do_the_same(options: dict[str, Any]) -> None:
    """In float64, whose rounding comes to some 1e-14 here. Where it puts a number on the other side of a bfloat16's edge within Muon, that
    changes an update, of at most 0.1, by 2^-9 of itself: six of them by some 1e-3.
    """
    if options["name"] == "shampoo":
        pytest.importorskip("pytorch_optimizer")
    config = OPTIMIZERS[options["name"]].model_validate(options)
    begun, ours = trained(block(), config, 0), block()
    reference = with_linears(ours)
    got, want = trained(ours, config), trained(reference, config)
    assert furthest(got, want) < (1e-3 if config.name == "muon" else 1e-12)
    assert all(float((value - begun[name]).abs().max()) > 1e-2 for name, value in got.items() if value.ndim > 1)


def test_soap_steps_alike_whichever_way_a_layer_lies() -> None:
    """By the same gradients, drawn, and with the factors that the first of them fills: of a side that it leaves open SOAP's basis is whatever the
    eigensolver makes of rounding (decision 049), and so it is of those of a block as GPT-2 begins.
    """
    pytest.importorskip("pytorch_optimizer")
    config = OPTIMIZERS["soap"].model_validate({"name": "soap", "precondition_frequency": 2, "max_precondition_dim": 8})
    for num_inputs, num_outputs in ((8, 8), (8, 24), (32, 8)):
        ours, draws = Conv1D(num_outputs, num_inputs).double(), torch.Generator().manual_seed(7)
        reference = as_linear(ours)
        begun, optimizers = ours.weight.detach().clone(), [build_optimizer(layer, config) for layer in (ours, reference)]
        for _ in range(6):
            gradient = torch.randn(num_inputs, num_outputs, generator=draws, dtype=torch.float64)
            ours.weight.grad, reference.weight.grad = gradient.clone(), gradient.T.contiguous()
            for optimizer in optimizers:
                set_learning_rate(optimizer, 0.05)
                optimizer.step()
        assert float((ours.weight - reference.weight.T).detach().abs().max()) < 1e-12
        assert float((ours.weight - begun).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("form", ["original", "spectral_unclamped"])
def test_rows_are_outputs_in_the_rate(form: str) -> None:
    """A layer from 8 to 32: the updates of its (8, 32) weight are sqrt(32 / 8) = 2 times an orthogonal matrix', not sqrt(8 / 32)."""
    config, moved = MuonConfig.model_validate({"name": "muon", "adjust_lr_fn": form, "ns_steps": 12}), []
    for layer in (Conv1D(32, 8), Conv1D(8, 32)):
        layer.weight.grad = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
        before, optimizer = layer.weight.detach().clone(), build_optimizer(layer, config)
        set_learning_rate(optimizer, 1.0)
        optimizer.step()
        moved.append(float(torch.linalg.svdvals(layer.weight.detach() - before).mean()))
    ratio = moved[0] / moved[1]  # whichever way it lies the iteration's own spread is the same
    assert ratio == pytest.approx(2.0 / (1.0 if form == "original" else 0.5), rel=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_a_transposed_convolution_without_overlap_is_the_linear_layer_from_a_place_to_its_window(form: str) -> None:
    torch.manual_seed(4)
    ours = nn.ConvTranspose2d(5, 3, 2, stride=2, bias=False).double()
    reference = nn.Linear(5, 12, bias=False).double()
    reference.weight.data.copy_(ours.weight.data.flatten(1).T)
    config = MuonConfig.model_validate({"name": "muon", "adjust_lr_fn": form, "weight_decay": 0.1})
    optimizers = [build_optimizer(model, config) for model in (ours, reference)]
    for step in range(5):
        x, target = torch.randn(2, 5, 4, 4, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)
        functional.mse_loss(ours(x), target).backward()
        windows = reference(x.movedim(1, -1)).view(2, 4, 4, 3, 2, 2)
        functional.mse_loss(windows.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 8, 8), target).backward()
        for optimizer in optimizers:
            set_learning_rate(optimizer, 0.1 / (1 + step))
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(ours.weight.flatten(1).T, reference.weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_dual_norm_goes_by_the_same_rows(form: str) -> None:
    config = MuonConfig.model_validate({"name": "muon", "adjust_lr_fn": form})
    layer = Conv1D(32, 8)
    linear, gradient = as_linear(layer), torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    found = [
        float(DualNorm(build_optimizer(each, config), "nuclear").of({each.weight: given}))
        for each, given in ((layer, gradient), (linear, gradient.T))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


class OtherConv1D(nn.Module):
    """A convolution of somebody's, of the name that GPT-2's layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.nf, self.weight = 6, nn.Parameter(torch.zeros(6, 4))


OtherConv1D.__name__ = "Conv1D"


def test_what_has_the_name_or_the_form_alone_is_none_of_it() -> None:
    class Linear(Conv1D):
        """A class over it is one."""

    class Layer(nn.Module):
        """One whose weight lies so, by another name, is of another kind."""

        def __init__(self) -> None:
            super().__init__()
            self.nf, self.weight = 4, nn.Parameter(torch.zeros(6, 4))

    model = nn.ModuleList([Linear(6, 4), OtherConv1D(), Layer(), nn.Conv1d(4, 6, 1)])
    kinds = {name: kind for name, kind in zip(dict(model.named_parameters()), kinds_of(model).values(), strict=True) if "weight" in name}
    assert kinds == {"0.weight": Kind.MATRIX, "1.weight": Kind.OTHER, "2.weight": Kind.OTHER, "3.weight": Kind.MATRIX}
    assert transposed_in(model) == {model[0].weight}


def test_a_weight_that_is_also_held_the_usual_way_lies_as_that_one_has_it() -> None:
    encoder, decoder = nn.Conv2d(3, 6, 2, stride=2), nn.ConvTranspose2d(6, 3, 2, stride=2)
    assert transposed_in(nn.Sequential(encoder, decoder)) == {decoder.weight}
    decoder.weight = encoder.weight
    assert transposed_in(nn.Sequential(encoder, decoder)) == set()
    table, layer = nn.Embedding(6, 4), Conv1D(4, 6)
    layer.weight = table.weight
    model = nn.Sequential(table, layer)
    assert (transposed_in(model), kinds_of(model)[table.weight]) == (set(), Kind.EMBEDDING)


def test_in_gpt_2_only_embeddings_are_no_hidden_matrices() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES))
    kinds = kinds_of(model)
    found = {name: kinds[param] for name, param in model.named_parameters() if param.ndim > 1}
    layers = {f"transformer.h.{number}.{layer}.weight" for number in range(2) for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert {name for name, kind in found.items() if kind is Kind.MATRIX} == layers
    assert {name for name, kind in found.items() if kind is not Kind.MATRIX} == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert {name for name, param in model.named_parameters() if param in transposed_in(model)} == layers


def test_one_at_the_end_is_the_head() -> None:
    model = nn.Sequential(Conv1D(5, 4), nn.Tanh(), Conv1D(2, 5))
    with layers_seen(model) as layers:
        output = model(torch.randn(3, 4))
    assert head_weights(model, [output], layers) == ("2.weight",)


def test_the_plan_names_gpt_2s_matrices_and_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the layers that adapters and parametrisations make of a weight, which train by the other rule, by name."""
    monkeypatch.setitem(sys.modules, "own_kinds", sys.modules[__name__])
    model = {"entry_point": "own_kinds:of_many_kinds"}
    lines = dict(prepared(optimizer={"name": "muon"}, model=model).plan_in_words())
    assert lines["by muon"].startswith("hidden matrices 1.weight, 3.a.weight (")
    others = "of modules of other kinds 2.parametrizations.weight.original0, 2.parametrizations.weight.original1, 3.b"
    assert others in lines["by adamw"]


def of_many_kinds(num_classes: int) -> nn.Module:
    """An entry point."""
    adapted = Net(lambda m, x: m.a(x) @ m.b, a=nn.Linear(7, 2), b=nn.Parameter(torch.zeros(2, 7)))
    return nn.Sequential(nn.Flatten(), Conv1D(6, 16), weight_norm(nn.Linear(6, 7)), adapted, nn.Tanh(), Conv1D(num_classes, 7))


def test_groups_of_an_older_checkpoint_which_lack_the_option_train_on() -> None:
    """They take the place of fresh ones."""
    model = Conv1D(3, 4)
    optimizer = build_optimizer(model, MuonConfig(name="muon"))
    for group in optimizer.param_groups:
        group.pop("transposed", None)
    set_learning_rate(optimizer, 0.1)
    model.weight.grad = torch.ones_like(model.weight)
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.weight, before)
