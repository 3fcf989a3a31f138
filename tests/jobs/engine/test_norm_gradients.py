"""The noise of the norms' gradients, sample by sample: the gradients are the samples' own, the estimates unbiased, what cannot be told is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Net, Samples, planned, prepared, state_of, trained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.engine.gradient.norm_gradients import layer_norms, sample_gradients
from largebatch.jobs.engine.noise_scale import SampleSums, estimate_by_samples
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.transformer import decoder
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.language_modelling import LanguageModelling

N, T, W = 6, 5, 4
HERE = "test_norm_gradients"
ON_TOKENS: dict[str, Any] = {
    "task": {"name": "language-modelling"},
    "dataset": {"entry_point": "own_tasks:documents", "arguments": {"num_train": 48}},
    "model": {"name": "transformer", "arguments": {"width": 16, "depth": 1, "num_heads": 2}},
    "gradient": {"noise_from": "norms", "noise_every_steps": 1},
}


class Scaled(nn.LayerNorm):
    """A subclass that runs as torch's does."""


class Doubled(nn.LayerNorm):
    """One that does not."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def once(m: Any, x: Tensor) -> Tensor:
    return m.out(m.norm(m.into(x)).tanh())


def twice(m: Any, x: Tensor) -> Tensor:
    return m.out(m.norm(m.norm(m.into(x)).tanh() + x))


def flattened(m: Any, x: Tensor) -> Tensor:
    return m.out(m.norm(m.into(x).reshape(-1, W)).reshape(x.shape).tanh())


def by_name(m: Any, x: Tensor) -> Tensor:
    return m.out(m.norm(input=m.into(x)).tanh())


def changed_in_place(m: Any, x: Tensor) -> Tensor:
    return m.out(m.norm(m.into(x)).mul_(2).tanh())


def checkpointed(is_reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, x: m.out(checkpoint(lambda h: m.norm(h).tanh(), m.into(x), use_reentrant=is_reentrant))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(W),
    "without a shift": lambda: nn.LayerNorm(W, bias=False),
    "over two dimensions": lambda: nn.LayerNorm((T, W)),
    "RMS norm": lambda: nn.RMSNorm(W, 1e-6),
    "RMS norm of torch's epsilon": lambda: nn.RMSNorm(W),
    "subclass": lambda: Scaled(W),
}
FORWARDS = {
    "once": once, "twice": twice, "flattened": flattened, "by name": by_name, "changed in place": changed_in_place,
    "checkpointed": checkpointed(False), "checkpointed, reentrant": checkpointed(True),
}  # fmt: skip


def small_model(norm: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    model = Net(forward, into=nn.Linear(W, W), norm=norm, out=nn.Linear(W, 3)).double()
    with torch.no_grad():
        for param in norm.parameters():
            param.add_(torch.randn_like(param) / 2)
    return model


def one_by_one(model: nn.Module, loss: Callable[[slice], Tensor], size: int) -> dict[nn.Parameter, Tensor]:
    """Each sample's gradient of every parameter, by a backward pass of its own loss alone."""
    params = list(model.parameters())
    found = [torch.autograd.grad(loss(slice(index, index + 1)), params, allow_unused=True) for index in range(size)]
    rows = [[torch.zeros_like(param) if part is None else part for param, part in zip(params, parts, strict=True)] for parts in found]
    return {param: torch.stack([row[index].reshape(-1) for row in rows]) for index, param in enumerate(params)}


@pytest.mark.parametrize(("norm", "forward"), [*((norm, "once") for norm in NORMS), *(("layer norm", name) for name in FORWARDS)])
def test_each_sample_has_the_gradient_that_it_has_alone(norm: str, forward: str) -> None:
    model = small_model(NORMS[norm](), FORWARDS[forward])
    inputs = torch.randn(N, T, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(samples: slice) -> Tensor:
        return model(inputs[samples]).square().sum()

    plain = small_model(NORMS[norm](), FORWARDS[forward.partition(",")[0].replace("checkpointed", "once")])
    expected = one_by_one(plain, lambda samples: plain(inputs[samples]).square().sum(), N)
    with sample_gradients(layer_norms(model), N) as gradients:
        loss(slice(None)).backward()
    by_name = {name: gradients[param] for name, param in model.named_parameters() if param in gradients}
    assert sorted(by_name) == sorted(name for name, _ in model.named_parameters() if name.startswith("norm."))
    for name, param in plain.named_parameters():
        if name in by_name:
            torch.testing.assert_close(by_name[name], expected[param], rtol=1e-10, atol=1e-10)


def test_what_is_not_exact_is_not_taken_for_a_norm() -> None:
    frozen = nn.LayerNorm(W).requires_grad_(False)
    assert layer_norms(nn.ModuleList([Doubled(W), nn.LayerNorm(W, elementwise_affine=False), frozen, nn.BatchNorm1d(W), nn.GroupNorm(2, W)])) == []


# ---- a step's sums -------------------------------------------------------------------------------------------------


class Rows:
    """Sequences in order; the first tokens of each alone count, how many differs much."""

    def __init__(self, size: int, length: int, vocabulary: int) -> None:
        draws = torch.Generator().manual_seed(3)
        self.tokens, self.targets = torch.randint(vocabulary, (2, size, length), generator=draws)
        counts = torch.randint(0, length + 1, (size,), generator=draws)
        self.targets[torch.arange(length) >= counts[:, None]] = -100

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        return self.tokens[samples.start : samples.stop], self.targets[samples.start : samples.stop]


def restated(gradients: Tensor, weights: Tensor) -> tuple[float, float]:
    """(tr(Sigma), |G|^2) from (B, parameters) of the sums' gradients, one sample at a time."""
    whole, total = gradients.sum(0) / weights.sum(), float(weights.sum())
    shares = [float(weight) / total for weight in weights]
    spread = sum(float((row / total - share * whole).square().sum()) / (1 - 2 * share) for row, share in zip(gradients, shares, strict=True))
    variance = spread / (1 + sum(share**2 / (1 - 2 * share) for share in shares))
    return variance * len(weights), float(whole.square().sum()) - variance


@pytest.mark.parametrize(("micro_batch_size", "length"), [(12, 8), (5, 8), (1, 8), (5, 4)])
def test_a_step_adds_up_to_the_same_whatever_its_micro_batches(micro_batch_size: int, length: int) -> None:
    data = Rows(12, 8, 11)
    torch.manual_seed(0)
    model = decoder(11, 8, width=16, depth=2, num_heads=2)
    parts = {"batch": {"global_batch_size": 12, "micro_batch_size": micro_batch_size}, "gradient": ON_TOKENS["gradient"]}
    plan = planned(12, **parts)
    step = replace(plan.step_at(Position(0, 0)), sequence_length=None if length == 8 else length)
    assert len(step.micro_batches(0, micro_batch_size)) == math.ceil(12 / micro_batch_size), "a single one is not cut"
    state = state_of(model, torch.optim.SGD(model.parameters()), micro_batch_size, task=LanguageModelling())
    measured = accumulate(state, plan.spec, step, data)
    assert measured is not None
    assert measured.norms is not None
    assert measured.mean_squared_norm == 0.0
    got = estimate_by_samples(measured.norms, 12)
    assert got is not None

    exact = decoder(11, 8, width=16, depth=2, num_heads=2).double()
    exact.load_state_dict(model.state_dict())

    def loss(samples: slice) -> Tensor:
        pieces = data.tokens[samples].reshape(-1, length)
        return functional.cross_entropy(exact(pieces).flatten(0, 1), data.targets[samples].flatten(), reduction="sum")

    gradients = one_by_one(exact, loss, 12)
    of_norms = [param for name, param in exact.named_parameters() if "norm" in name]
    expected = restated(torch.cat([gradients[param] for param in of_norms], dim=1), (data.targets != -100).sum(1).double())
    # A few hundred terms rounded to float32, 6e-8 each, and squared.
    assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5], ids="noise ~ weight^{}".format)
def test_planted_noise_is_recovered_whatever_its_variance(power: float) -> None:
    draws, steps, size = np.random.default_rng(5), 4000, 8
    true, deviations = np.array([0.6, -0.3, 0.1, 0.0, 0.2]), np.array([1.0, 0.5, 2.0, 0.1, 1.5])
    weights = np.array([1.0, 2.0, 3.0, 10.0, 30.0, 40.0, 5.0, 0.0])  # the largest has 44 % of all
    scales = np.where(weights > 0, np.maximum(weights, 1e-9) ** power, 0.0)
    shares = weights / weights.sum()
    scales *= weights.sum() / 10 / math.sqrt(float((scales**2).sum()))  # such that noise and signal are of one size
    variance = float((deviations**2).sum()) / 100
    rows = []
    for _ in range(steps):
        own = (weights[:, None] * true + scales[:, None] * deviations * draws.standard_normal((size, 5))) / weights.sum()
        mean, factors = own.sum(0), 1 / (1 - 2 * shares)
        spread = float((factors * ((own - shares[:, None] * mean) ** 2).sum(1)).sum())
        found = estimate_by_samples(SampleSums(spread, float((factors * shares**2).sum()), float((mean**2).sum())), size)
        assert found is not None
        rows.append(found)
    for values, truth in zip(np.array(rows).T, (variance * size, 0.5), strict=True):
        error = values.std(ddof=1) / math.sqrt(steps)
        assert abs(values.mean() - truth) < 4 * error
        assert error < 0.05 * truth, "too few steps for the comparison to mean anything"


def test_equal_weights_are_the_textbooks_covariance() -> None:
    gradients = torch.randn(7, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    trace, norm_squared = restated(gradients, torch.ones(7))
    assert trace == pytest.approx(float(gradients.var(0, correction=1).sum()), rel=1e-12)
    assert norm_squared == pytest.approx(float(gradients.mean(0).square().sum()) - trace / 7, rel=1e-9)


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.7, 0.2, 0.1)])
def test_a_batch_of_one_sample_as_heavy_as_all_others_measures_nothing(shares: tuple[float, ...]) -> None:
    data, size = Rows(len(shares), 10, 11), len(shares)
    data.targets[:] = 1
    data.targets[torch.arange(10) >= torch.tensor([round(10 * share) for share in shares])[:, None]] = -100
    model = decoder(11, 10, width=16, depth=1, num_heads=2)
    plan = planned(9, batch={"global_batch_size": 3, "micro_batch_size": 3}, gradient=ON_TOKENS["gradient"])
    step = plan.step_at(Position(0, 9 - size))
    assert step.samples.size == size

    class Last:
        def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
            return data.tokens, data.targets

    measured = accumulate(state_of(model, torch.optim.SGD(model.parameters()), 3, task=LanguageModelling()), plan.spec, step, Last())
    assert measured is not None
    assert measured.norms is not None
    assert estimate_by_samples(measured.norms, size) is None


# ---- whole runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [{}, {"precision": "bfloat16"}, {"batch": {"global_batch_size": 16, "micro_batch_size": 3}}], ids=str)
def test_a_run_says_what_its_noise_is_of(parts: dict[str, Any], tmp_path: Path) -> None:
    summary = trained(prepared(**{**ON_TOKENS, **parts}), tmp_path)
    steps = [record for record in read_records(tmp_path) if isinstance(record, StepRecord)]
    assert len(steps) == 8
    assert all(record.covariance_trace is None and record.gradient_norm_squared is None for record in steps)
    sums = [sum(getattr(record, f"norms_{name}") for record in steps) for name in ("covariance_trace", "gradient_norm_squared")]
    assert summary.gradient_noise_scale is None
    assert summary.norms_noise_scale == (pytest.approx(sums[0] / sums[1]) if sums[1] > 0 else None)


def test_measuring_changes_nothing_else(tmp_path: Path) -> None:
    silent = {**ON_TOKENS, "gradient": {"noise_every_steps": 0}}
    first, second = (trained(prepared(**parts), tmp_path / name) for name, parts in (("silent", silent), ("measured", ON_TOKENS)))
    assert first.parameters_sha256 == second.parameters_sha256


@pytest.mark.parametrize("chosen", [True, ["blocks.*.attention_norm", "norm"]], ids=str)
def test_blocks_that_run_again_count_once(chosen: Any, tmp_path: Path) -> None:
    again = {**ON_TOKENS, "model": {**ON_TOKENS["model"], "activation_checkpointing": chosen}}
    first, second = (trained(prepared(**parts), tmp_path / name) for name, parts in (("kept", ON_TOKENS), ("again", again)))
    steps = [[record for record in read_records(tmp_path / name) if isinstance(record, StepRecord)] for name in ("kept", "again")]
    assert first.parameters_sha256 == second.parameters_sha256
    assert [record.norms_covariance_trace for record in steps[0]] == [record.norms_covariance_trace for record in steps[1]]


SHOWN = [Samples(size, lambda index: (torch.randn(T, W, generator=torch.Generator().manual_seed(index)), index % 3)) for size in (40, 12)]


def shown() -> tuple[Any, Any]:
    return SHOWN[0], SHOWN[1]


def model_of(num_classes: int, kind: str) -> nn.Module:
    """A person's own models whose norms cannot be told sample by sample."""
    norm: nn.Module = {"other norm": nn.GroupNorm(2, W), "own forward": Doubled(W)}.get(kind, nn.LayerNorm(W))

    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = m.into(x)
        if kind == "time first":
            hidden = m.norm(hidden.transpose(0, 1).repeat(4, 1, 1))[:T].transpose(0, 1)
        elif kind == "no samples first":
            hidden = m.norm(hidden.transpose(0, 1)).transpose(0, 1)
        elif kind in ("other norm", "own forward"):
            hidden = m.norm(hidden.transpose(1, 2)).transpose(1, 2) if kind == "other norm" else m.norm(hidden)
        elif kind == "positions":
            hidden = hidden + m.norm(m.table)
        else:
            hidden = m.norm(hidden)
        if kind == "weight used elsewhere":
            hidden = hidden * m.norm.weight
        return m.out(hidden.flatten(1))

    torch.manual_seed(0)
    return Net(forward, into=nn.Linear(W, W), norm=norm, table=nn.Parameter(torch.randn(1, T, W)), out=nn.Linear(T * W, num_classes))


OWN: dict[str, Any] = {"dataset": {"entry_point": f"{HERE}:shown"}, "gradient": ON_TOKENS["gradient"]}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("other norm", r"no nn.LayerNorm or nn.RMSNorm with weights that train \(it has GroupNorm\)"),
        ("own forward", "no nn.LayerNorm or nn.RMSNorm"),
        ("time first", "takes rows that are not the samples' in their order"),
        ("no samples first", r"takes \(5, 4, 4\) for 4 samples"),
        ("positions", r"takes \(1, 5, 4\) for 4 samples"),
        ("weight used elsewhere", "the weight of a LayerNorm gets a gradient that does not come from this norm's own passes"),
    ],
)
def test_norms_that_cannot_be_told_are_refused(kind: str, words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        prepared(**OWN, model={"entry_point": f"{HERE}:model_of", "arguments": {"kind": kind}})
    assert caught.value.field == "gradient.noise_from"


@pytest.mark.parametrize(("name", "is_told"), [("GPT2LMHeadModel", True), ("LlamaForCausalLM", False)])
def test_of_the_transformers_library_those_are_taken_that_use_torchs_norms(name: str, is_told: bool) -> None:
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2}
    if not is_told:
        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    parts = {**ON_TOKENS, "model": {"name": f"transformers:{name}", "arguments": sizes}}
    if is_told:
        assert prepared(**parts).plan.noise_every_steps == 1
    else:
        with pytest.raises(PlanError, match=r"\(it has LlamaRMSNorm\)"):
            prepared(**parts)


def test_a_norm_that_can_be_told_is_taken() -> None:
    assert prepared(**OWN, model={"entry_point": f"{HERE}:model_of", "arguments": {"kind": "plain"}}).plan.noise_every_steps == 1


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"compile": True}, "compiled code"),
        ({"learning_rate": {"base": 0.1, "base_global_batch_size": 8, "scaling": "adascale"}}, "AdaScale"),
        ({"batch": {"global_batch_size": 2, "micro_batch_size": 2}}, "a batch of 2 has too few samples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_specs_that_norms_cannot_serve_are_refused(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        planned(64, **{"batch": {"global_batch_size": 16, "micro_batch_size": 4}, "gradient": ON_TOKENS["gradient"], **parts})
    assert caught.value.field == "gradient.noise_from"


def test_batch_norm_and_coupled_samples_are_refused() -> None:
    with pytest.raises(PlanError, match="batch-norm mixes samples"):
        planned(64, has_batch_norm=True, batch={"global_batch_size": 16, "micro_batch_size": 16}, gradient=ON_TOKENS["gradient"])
    pairs = {"task": {"name": "contrastive"}, "dataset": {"entry_point": "own_tasks:views"}, "model": {"entry_point": "own_tasks:Towers"}}
    with pytest.raises(PlanError, match="looks at all samples of a batch together"):
        prepared(**pairs, gradient=ON_TOKENS["gradient"])


def test_a_task_whose_weights_do_not_add_up_is_refused() -> None:
    words = r"8 samples weigh 2\.82843 together and 8 one by one"
    with pytest.raises(PlanError, match=words):
        prepared(**OWN, task={"entry_point": f"{HERE}:RootWeight"}, model={"entry_point": f"{HERE}:model_of", "arguments": {"kind": "plain"}})


class RootWeight(LanguageModelling):
    """The root of the number of samples is no sum over them."""

    def weight(self, batch: Any) -> Tensor:
        return torch.tensor(math.sqrt(len(batch[0])))

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(model, batch)}

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        return dict.fromkeys(("loss", "perplexity", "bits_per_byte", "accuracy"), sums["loss"] / weight)
