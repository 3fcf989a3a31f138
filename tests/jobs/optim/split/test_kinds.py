"""Which rule updates a parameter follows from the module that holds it; heads are found by a pass, and the plan says all of it."""

import sys
from typing import Any

import pytest
import torch
from small_runs import Net, prepared, synthetic
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from largebatch.jobs.errors import InputError
from largebatch.jobs.optim.config_base import Kind
from largebatch.jobs.optim.split.heads import head_weights, layers_seen
from largebatch.jobs.optim.split.kinds import kinds_of
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.tasks.outputs import tensors_of


def heads_of(model: nn.Module, *inputs: Tensor) -> set[str]:
    with layers_seen(model) as layers:
        outputs = tensors_of(model(*inputs))
    return set(head_weights(model, outputs, layers))


X = torch.randn(3, 4)


def tied() -> nn.Module:
    model = Net(lambda m, x: m.last(m.table(x.abs().long().clamp(max=5)).mean(1)), table=nn.Embedding(6, 4), last=nn.Linear(4, 6, bias=False))
    model.last.weight = model.table.weight
    return model


def raw() -> nn.Module:
    return Net(lambda m, x: functional.gelu(m.first(x)) @ m.weight.t(), first=nn.Linear(4, 5), weight=nn.Parameter(torch.randn(2, 5)))


def residual(m: Any, x: Tensor) -> Tensor:
    hidden = m.a(x)
    return hidden + m.b(hidden.tanh())


def recurrent(m: Any, x: Tensor) -> Tensor:
    return m.last(m.lstm(x[:, :, None])[0][:, -1])


MODELS: dict[str, tuple[nn.Module, set[str]]] = {
    "plain": (nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), {"2.weight"}),
    "log-softmax": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2), nn.LogSoftmax(1)), {"2.weight"}),
    "scaled": (Net(lambda m, x: 0.1 * m.last(m.first(x).tanh()).squeeze(-1), first=nn.Linear(4, 5), last=nn.Linear(5, 1)), {"last.weight"}),
    "normalised": (Net(lambda m, x: functional.normalize(m.last(m.first(x))), first=nn.Linear(4, 5), last=nn.Linear(5, 2)), {"last.weight"}),
    "norm at the end": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2), nn.LayerNorm(2)), {"2.weight"}),
    "norm of two dimensions": (nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.LayerNorm([2, 3])), {"0.weight"}),
    "two outputs": (Net(lambda m, x: (m.a(m.body(x)), {"b": m.b(m.body(x))}), body=nn.Linear(4, 5), a=nn.Linear(5, 2), b=nn.Linear(5, 3)),
                    {"a.weight", "b.weight"}),
    "side by side": (Net(lambda m, x: m.a(m.body(x)) + m.b(x), body=nn.Linear(4, 5), a=nn.Linear(5, 2), b=nn.Linear(4, 2)), {"a.weight", "b.weight"}),
    "residual stream": (Net(residual, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), set()),
    "a weight used twice": (Net(lambda m, x: m.a(m.a(x).tanh()), a=nn.Linear(4, 4)), {"a.weight"}),
    "convolution, pooled": (Net(lambda m, x: m.last(m.first(x[:, None]).relu()).mean(2), first=nn.Conv1d(1, 3, 2), last=nn.Conv1d(3, 2, 1)),
                            {"last.weight"}),
    "recurrent": (Net(recurrent, lstm=nn.LSTM(1, 3, batch_first=True), last=nn.Linear(3, 2)), {"last.weight"}),
    "tied to the embedding": (tied(), set()),
    "raw": (raw(), {"weight"}),
    "attention at the end": (Net(lambda m, x: m.attention(m.first(x[:, :, None]), *[m.first(x[:, :, None])] * 2)[0],
                                 first=nn.Linear(1, 4), attention=nn.MultiheadAttention(4, 2, batch_first=True)), set()),
    "a weight that is computed": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), weight_norm(nn.Linear(5, 2))), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_the_weight_that_every_way_to_an_output_passes_last(name: str) -> None:
    model, expected = MODELS[name]
    assert heads_of(model, X) == expected


class EveryKind(nn.Module):
    """A module of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bag, self.linear = nn.Embedding(3, 4), nn.EmbeddingBag(3, 4), nn.Linear(4, 4)
        self.convolution, self.depthwise = nn.Conv2d(2, 4, 3), nn.Conv1d(4, 4, 3, groups=4)
        self.transposed, self.attention, self.gru = nn.ConvTranspose1d(2, 4, 3), nn.MultiheadAttention(4, 2), nn.GRU(4, 4)
        self.pair, self.spectral = nn.Bilinear(2, 3, 4), spectral_norm(nn.Linear(4, 4))
        self.norm, self.position, self.last = nn.LayerNorm([2, 4]), nn.Parameter(torch.zeros(1, 5, 4)), nn.Linear(4, 2)


def test_the_kind_follows_from_the_module() -> None:
    model = EveryKind()
    model.linear.register_parameter("adapter", nn.Parameter(torch.zeros(4, 2)))
    kinds = kinds_of(model, heads=("last.weight",))
    got = {name: kinds[param] for name, param in model.named_parameters()}
    assert {name for name, kind in got.items() if kind is Kind.MATRIX} == {
        "linear.weight", "convolution.weight", "attention.in_proj_weight", "attention.out_proj.weight", "gru.weight_ih_l0", "gru.weight_hh_l0",
        "transposed.weight",
    }  # fmt: skip
    assert {name: kind for name, kind in got.items() if kind not in (Kind.MATRIX, Kind.BIAS_OR_NORM)} == {
        "table.weight": Kind.EMBEDDING, "bag.weight": Kind.EMBEDDING, "depthwise.weight": Kind.MANY_MATRICES,
        "pair.weight": Kind.OTHER, "spectral.parametrizations.weight.original": Kind.OTHER,
        "last.weight": Kind.HEAD, "position": Kind.OTHER, "linear.adapter": Kind.OTHER,
    }  # fmt: skip


def plan_of(**optimizer: Any) -> dict[str, str]:
    model = {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}}
    job = prepared(optimizer={"name": "muon", **optimizer}, model=model, dataset=synthetic(shape=(1, 16, 16)))
    return dict(job.plan_in_words())


def test_the_plan_says_what_goes_where_and_why() -> None:
    lines = plan_of(
        weight_decay=0.1, other={"name": "lamb", "weight_decay": 0.01}, other_learning_rate_factor=0.3, assign=[{"pattern": "0.*t", "to": "other"}]
    )
    assert lines["by muon"].startswith("hidden matrices ")
    assert lines["by muon"].endswith(" (weight decay 0.1, rate by match_rms_adamw)")
    assert "matching '0.*t' 0.weight" in lines["by lamb"]
    assert "output heads 12.weight" in lines["by lamb"]
    assert lines["by lamb"].endswith("(weight decay 0.01, learning rate x 0.3)")
    assert "0.weight" not in lines["by muon"]


def test_vectors_that_match_stay_where_they_are() -> None:
    lines = plan_of(assign=[{"pattern": "12.*", "to": "muon"}])
    assert "matching '12.*' 12.weight" in lines["by muon"]
    assert "12.bias" in lines["by adamw"].partition("biases and norms ")[2]


def test_a_row_of_blocks_is_told_once() -> None:
    tokens = {"name": "language-modelling"}
    model = {"name": "transformer", "arguments": {"width": 8, "depth": 3, "num_heads": 2}}
    data = {"entry_point": "own_tasks:documents", "arguments": {"num_train": 64}}
    job = prepared(optimizer={"name": "muon"}, task=tokens, model=model, dataset=data)
    lines = dict(job.plan_in_words())
    assert "blocks.*.feed_forward.out.weight (3)" in lines["by muon"]
    assert lines["by adamw"].startswith("embeddings embedding.weight; ")
    assert "output heads head.weight" in lines["by adamw"]
    # 3 x 12 x 8^2 numbers of matrices with one float32 each, and twice that for all others
    shapes, total = [(64 * 12,)] * 3, sum(param.numel() for param in job.model.parameters())
    assert job.plan.spec.optimizer.state_bytes(total, shapes) == 4 * 3 * 12 * 64 + 8 * (total - 3 * 12 * 64)
    assert [group["is_main"] for group in job_groups(job)] == [True, False, False]


def job_groups(job: Any) -> list[dict[str, Any]]:
    return new_state(job).optimizer.param_groups


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (
            {"assign": [{"pattern": "*", "to": "other"}]},
            r"optimizer\.name: muon has no hidden matrix to update in this model, which trains matching '\*'",
        ),
        (
            {"assign": [{"pattern": "nothing", "to": "other"}]},
            r"optimizer\.assign: has the pattern 'nothing', which matches no parameter that is trained",
        ),
        (
            {"assign": [{"pattern": "*.weight", "to": "muon"}, {"pattern": "0.weight", "to": "other"}]},
            r"pattern '0\.weight', whose parameters all match",
        ),
        (
            {"assign": [{"pattern": "*.bias", "to": "muon"}]},
            r"optimizer\.assign: has the pattern '\*\.bias' to muon, which updates no vector, and .* vectors alone\. Leave it out: adamw",
        ),
        ({"assign": [{"pattern": "*", "to": "adamw"}]}, "optimizer: assign has the pattern '\\*' to 'adamw'; it must be to muon or to other"),
        ({"other": {"name": "lars"}}, r'optimizer\.other\.name: must be "adamw", "lamb" or "sgd"'),
        ({"other": {"name": "adamw", "groups": [{"pattern": "*"}]}}, r"optimizer: other has groups"),
        ({"adjust_lr_fn": "none"}, r"optimizer\.adjust_lr_fn: must be "),
        ({"ns_steps": 100}, r"optimizer\.ns_steps"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(optimizer: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan_of(**optimizer)


def test_a_model_without_hidden_matrices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_heads", sys.modules[__name__])
    with pytest.raises(InputError, match=r"muon has no hidden matrix .*output heads: 1\.weight.* Use adamw, or assign"):
        prepared(optimizer={"name": "muon"}, model={"entry_point": "own_heads:only_a_head"})


def only_a_head(num_classes: int) -> nn.Module:
    """An entry point."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
