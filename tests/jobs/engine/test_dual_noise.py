"""Noise in the optimizer's own norm: exact over any split, its estimates on planted gradients as large and as biased as is said of them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import Planted, Rows
from small_runs import planned, prepared, state_of, trained
from torch import Tensor, nn

from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.engine.noise_scale import NoiseSums, estimate, estimate_in_dual_norm
from largebatch.jobs.errors import PlanError
from largebatch.jobs.optim.configs.element_wise import LionConfig
from largebatch.jobs.optim.configs.muon import MuonConfig
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.plan.describe import plan_facts
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.tracking.metrics import end_points

Array = NDArray[np.float64]
ROWS, COLUMNS = 8, 12
OPTIMIZERS: dict[str, dict[str, Any]] = {"l1": {"name": "lion"}, "nuclear": {"name": "muon", "adjust_lr_fn": "original"}}
FIRSTS = {"l1": LionConfig(name="lion"), "nuclear": MuonConfig(name="muon", adjust_lr_fn="original")}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of passes over a handful of numbers: threads that wait for each other would cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Matrix(nn.Module):
    """One hidden matrix. Its output for a sample is their inner product, whose gradient is the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(COLUMNS, ROWS, bias=False).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs * self.hidden.weight).sum((1, 2))


def dual_norms(rows: Rows, norm: str, batch: int, micro_batch_size: int) -> Array:
    """Each step's (|G_B|_*, |D|_*), by the engine; (steps, 2). The weights are never moved."""
    parts = {"optimizer": OPTIMIZERS[norm], "gradient": {"noise_norm": "optimizer", "noise_every_steps": 1}}
    plan = planned(len(rows.parts[1]), batch={"global_batch_size": batch, "micro_batch_size": micro_batch_size}, stop={"epochs": 1.0}, **parts)
    model = Matrix()
    state, position, found = state_of(model, build_optimizer(model, FIRSTS[norm]), micro_batch_size, task=Planted()), Position(0, 0), []
    for _ in plan.batches():
        step = plan.step_at(position)
        measured, position = accumulate(state, plan.spec, step, rows), step.end
        assert measured is not None
        assert measured.dual_norms is not None
        found.append(measured.dual_norms)
    return np.array(found)


def norm_of(name: str, gradients: Array) -> Array:
    """Of each of the last two axes' matrices, restated."""
    norms: Array = np.abs(gradients).sum((-2, -1)) if name == "l1" else np.linalg.svd(gradients, compute_uv=False).sum(-1)
    return norms


# ---- exact, whatever the split --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", OPTIMIZERS)
@pytest.mark.parametrize("weighs", ["alike", "apart"])
@pytest.mark.parametrize("micro_batch_size", [31, 16, 15, 7, 1])
def test_no_split_changes_what_is_measured(norm: str, weighs: str, micro_batch_size: int) -> None:
    draws = np.random.default_rng(5)
    weights = np.ones(93) if weighs == "alike" else draws.integers(0, 4, 93).astype(float)
    gradients = weights[:, None, None] * (1.0 + draws.standard_normal((93, ROWS, COLUMNS)))
    found = dual_norms(Rows((torch.tensor(gradients), torch.tensor(weights))), norm, 31, micro_batch_size)
    for step, start in enumerate(range(0, 93, 31)):
        first, second = slice(start, start + 16), slice(start + 16, start + 31)  # 31 samples: the first half has one more
        halves = [gradients[part].sum(0) / weights[part].sum() for part in (first, second)]
        weighed = [weights[part].sum() for part in (first, second)]
        mean = gradients[start : start + 31].sum(0) / sum(weighed)
        difference = math.sqrt(weighed[0] * weighed[1]) / sum(weighed) * (halves[0] - halves[1])
        # float64 all the way: the order of sums, and the roots of eigenvalues that are no smaller than 1e-4 of the largest.
        assert found[step] == pytest.approx([norm_of(norm, mean), norm_of(norm, difference)], rel=1e-9)


def test_in_the_euclidean_norm_it_is_the_estimate_between_two_pieces() -> None:
    draws = np.random.default_rng(6)
    for weights in ([8.0, 8.0], [3.0, 13.0]):
        shares, (first, second) = np.array(weights) / 16, draws.standard_normal((2, 40))
        batch = shares[0] * first + shares[1] * second
        difference = math.sqrt(shares[0] * shares[1]) * (first - second)
        expected = estimate(float(shares @ [np.sum(first**2), np.sum(second**2)]), float(np.sum(batch**2)), 16, 2)
        assert estimate_in_dual_norm(float(np.linalg.norm(batch)), float(np.linalg.norm(difference)), 16) == pytest.approx(expected, rel=1e-12)


# ---- as large, and as biased, as is said ----------------------------------------------------------------------------

DEVIATIONS = np.exp(0.5 * np.random.default_rng(7).standard_normal((ROWS, COLUMNS)))
SPREAD = 0.1 * DEVIATIONS * np.random.default_rng(8).choice([-1.0, 1.0], (ROWS, COLUMNS))
SPARSE = 0.6 * np.eye(ROWS, COLUMNS)
OF_RANK_ONE = 0.3 * np.outer(np.ones(ROWS), np.ones(COLUMNS))
STEPS = 600


def planted(gradient: Array, norm: str, batch: int, seed: int, steps: int = STEPS) -> Array:
    """Each step's estimates (B E|G_B - G|_*^2, |G|_*^2) by the engine."""
    draws = np.random.default_rng(seed).standard_normal((steps * batch, ROWS, COLUMNS))
    rows = Rows((torch.tensor(gradient + DEVIATIONS * draws), torch.ones(steps * batch)))
    return np.array([estimate_in_dual_norm(of_batch, of_difference, batch) for of_batch, of_difference in dual_norms(rows, norm, batch, batch)])


def expected(gradient: Array, norm: str, batch: int) -> tuple[float, float]:
    """(B E|N|_*^2, E|G + N|_*^2 - E|N|_*^2) of N ~ normal(0, DEVIATIONS^2 / B): folded normals for l1, else 40,000 draws by NumPy."""
    deviations = DEVIATIONS / math.sqrt(batch)
    if norm == "nuclear":
        draws = deviations * np.random.default_rng(9).standard_normal((40_000, ROWS, COLUMNS))
        noise, both = ((norm_of(norm, values) ** 2).mean() for values in (draws, gradient + draws))
        return batch * float(noise), float(both - noise)

    def square(mean: Array) -> float:
        ratios = mean / deviations
        erf = np.array([math.erf(value / math.sqrt(2)) for value in ratios.ravel()]).reshape(ratios.shape)
        folded = deviations * math.sqrt(2 / math.pi) * np.exp(-(ratios**2) / 2) + mean * erf
        return float(folded.sum() ** 2 + (mean**2 + deviations**2 - folded**2).sum())

    noise = square(np.zeros_like(gradient))
    return batch * noise, square(gradient) - noise


@pytest.mark.parametrize("batch", [2, 16, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("norm", "gradient"),
    [("l1", SPREAD), ("l1", SPARSE), ("nuclear", SPARSE), ("nuclear", OF_RANK_ONE)],
    ids=["l1-spread", "l1-sparse", "nuclear-spread", "nuclear-rank-one"],
)
def test_planted_noise_is_recovered_at_any_batch(norm: str, gradient: Array, batch: int) -> None:
    found = planted(gradient, norm, batch, seed=10)
    for values, truth in zip(found.T, expected(gradient, norm, batch), strict=True):
        error = values.std(ddof=1) / math.sqrt(STEPS)
        assert abs(values.mean() - truth) < 4 * error + 0.005 * truth, "four standard errors; and those of the 40,000 draws"
    of_noise = found[:, 0].std(ddof=1) / math.sqrt(STEPS) / found[:, 0].mean()
    assert of_noise < 0.02, "too few steps for the comparison to mean anything"


@pytest.mark.parametrize(
    ("norm", "gradient", "where_noise_leads", "where_the_gradient_does"),
    [
        ("l1", SPREAD, (1.2, 1.9), (0.95, 1.1)),
        pytest.param("l1", SPARSE, (0.1, 0.35), (0.6, 0.9), marks=pytest.mark.slow),
        pytest.param("nuclear", SPARSE, (0.9, 1.5), (0.95, 1.1), marks=pytest.mark.slow),
        ("nuclear", OF_RANK_ONE, (0.15, 0.6), (0.6, 0.9)),
    ],
    ids=["l1 spread", "l1 sparse", "nuclear spread", "nuclear rank one"],
)
def test_the_bias_is_what_is_said_of_it(
    norm: str, gradient: Array, where_noise_leads: tuple[float, float], where_the_gradient_does: tuple[float, float]
) -> None:
    """Estimated over true dual noise scale: up to pi / 2 for a gradient spread as its noise, too low for another, and right at large batches."""
    signal = float(norm_of(norm, gradient)) ** 2
    truth = expected(gradient, norm, 1)[0] / signal
    for batch, steps, (low, high) in ((truth / 4, 1500, where_noise_leads), (truth * 16, 20, where_the_gradient_does)):
        estimates = planted(gradient, norm, max(round(batch), 2), seed=11, steps=steps)
        noise, squared = estimates.mean(0)
        assert low < noise / squared / truth < high
        error = estimates[:, 1].std(ddof=1) / math.sqrt(steps)
        assert abs(squared - signal) <= 2 * math.sqrt(signal * noise / max(round(batch), 2)) + 4 * error, "the bound of noise_scale.py"


# ---- whole runs -----------------------------------------------------------------------------------------------------

TEXT = {"entry_point": "own_tasks:documents", "arguments": {"num_train": 60}}
MEASURING = {"gradient": {"noise_norm": "optimizer", "noise_every_steps": 2}, "learning_rate": {"base": 0.001}}


@pytest.mark.parametrize(("norm", "optimizer"), OPTIMIZERS.items())
def test_both_numbers_are_kept_apart(norm: str, optimizer: dict[str, Any], tmp_path: Path) -> None:
    job = prepared(optimizer=optimizer, **MEASURING)
    summary = trained(job, tmp_path)
    steps = [record for record in read_records(tmp_path) if isinstance(record, StepRecord)]
    measured = [record.step for record in steps if record.dual_variance is not None]
    assert measured == [record.step for record in steps if record.covariance_trace is not None] == [2, 4, 6, 8]
    sums, euclidean = NoiseSums(), NoiseSums()
    for record in steps:
        if record.dual_variance is not None and record.dual_norm_squared is not None:
            sums.add(record.dual_variance, record.dual_norm_squared)
        if record.covariance_trace is not None and record.gradient_norm_squared is not None:
            euclidean.add(record.covariance_trace, record.gradient_norm_squared)
    assert (summary.dual_noise_scale, summary.gradient_noise_scale) == (sums.noise_scale, euclidean.noise_scale)
    sent = {point.name: point.value for point in end_points(summary)}
    assert sent.get("final_dual_noise_scale") == sums.noise_scale
    facts = plan_facts(job.plan)
    assert (facts["noise_norm"], facts["dual_norm"]) == ("optimizer", norm)
    assert json.loads((tmp_path / "plan.json").read_text())["dual_norm"] == norm


def test_a_euclidean_run_measures_the_euclidean_noise_alone(tmp_path: Path) -> None:
    summary = trained(prepared(optimizer={"name": "lion"}, gradient={"noise_every_steps": 2}, learning_rate={"base": 0.001}), tmp_path)
    assert summary.dual_noise_scale is None
    assert all(record.dual_variance is None for record in read_records(tmp_path) if isinstance(record, StepRecord))
    assert plan_facts(prepared(optimizer={"name": "lion"}).plan)["dual_norm"] is None


def test_sums_go_on_after_a_checkpoint_and_begin_in_one_that_has_none() -> None:
    job = prepared(optimizer={"name": "lion"}, **MEASURING)
    states = [state_of(job.model, build_optimizer(job.model, job.spec.optimizer), 16, task=job.task) for _ in range(2)]
    states[0].dual_noise.add(8.0, 2.0)
    saved = states[0].state_dict()
    states[1].load_state_dict(saved)
    assert states[1].dual_noise == NoiseSums(8.0, 2.0, 1)
    del saved["dual_noise"]
    states[1].load_state_dict(saved)
    assert states[1].dual_noise == NoiseSums()


def test_blocks_that_run_again_count_once(tmp_path: Path) -> None:
    """The backward pass of such a block reaches its parameters as the others' does."""
    parts: dict[str, Any] = {"task": {"name": "language-modelling"}, "dataset": TEXT, "optimizer": {"name": "muon"}, **MEASURING}
    kept, again = [], []
    for found, chosen in ((kept, False), (again, True)):
        model = {"name": "transformer", "arguments": {"width": 16, "depth": 2, "num_heads": 2}, "activation_checkpointing": chosen}
        trained(prepared(**parts, model=model), tmp_path / str(chosen))
        found += [record.dual_variance for record in read_records(tmp_path / str(chosen)) if isinstance(record, StepRecord)]
    assert kept == again
    assert kept[1]


# ---- what cannot be measured so -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"optimizer": {"name": "sgd"}}, "sgd has no norm of its own .* its steps follow the Euclidean norm"),
        ({"optimizer": {"name": "adamw"}}, "adamw has no norm of its own .* squared gradients"),
        ({"optimizer": {"name": "lars"}}, "lars has no norm of its own .* layer by layer"),
        ({"optimizer": {"name": "lamb"}}, "lamb has no norm of its own .* layer by layer"),
        ({"optimizer": {"entry_point": "torch.optim:NAdam"}}, "torch.optim:NAdam has no norm of its own .* is not known"),
        ({"gradient": {"noise_norm": "optimizer", "noise_from": "norms"}}, "noise_from=norms measures sample by sample"),
        ({"learning_rate": {"base": 0.1, "base_global_batch_size": 8, "scaling": "adascale"}}, "AdaScale follows the Euclidean noise"),
        ({"reduction": {"local_steps": 4}}, "reduction.local_steps"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_what_cannot_be_measured_so_is_refused(parts: dict[str, Any], words: str) -> None:
    usual = {"batch": {"global_batch_size": 16, "micro_batch_size": 4}, "optimizer": {"name": "lion"}, "gradient": MEASURING["gradient"]}
    with pytest.raises(PlanError, match=words) as caught:
        planned(64, **{**usual, **parts})
    assert caught.value.field == "gradient.noise_norm"
    assert "gradient.noise_norm=euclidean" in str(caught.value)


def test_losses_that_look_at_the_whole_batch_are_refused() -> None:
    data = {"entry_point": "own_tasks:views", "arguments": {"num_train": 40, "labelled": False}}
    parts = {"task": {"name": "contrastive"}, "dataset": data, "model": {"entry_point": "own_tasks:Towers"}, "optimizer": {"name": "lion"}}
    with pytest.raises(PlanError, match="looks at all samples of a batch together") as caught:
        prepared(**parts, **MEASURING)
    assert caught.value.field == "gradient.noise_norm"
