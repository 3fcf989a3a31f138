"""Branches of real runs in this process: at the multiple 1 the run that goes on, bit for bit; kept line by line; refused where they cannot be."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from small_branches import PARTS
from small_runs import CPU, parameters, synthetic, trained
from torch import nn

from largebatch.jobs.engine.model_state import digest
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.errors import CheckpointError, DataError, InputError, PlanError
from largebatch.jobs.job import prepare
from largebatch.jobs.preparing.batches import evaluation_batches, training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.resume import load_checkpoint
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.tuning.branch.answer import answer_of_branches
from largebatch.tuning.branch.branch import branch_run
from largebatch.tuning.branch.critical import critical_batch
from largebatch.tuning.branch.origin import Origin, Wanted, open_origin
from largebatch.tuning.branch.run_branches import Ask, Branched, BranchListener, run_branches
from largebatch.tuning.branch.schedule import as_yaml, batch_schedule
from largebatch.tuning.branch.train import Branch, BranchResult, branch_job
from largebatch.tuning.files import BRANCH_LEDGER, BRANCHES
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find

NOWHERE = Path("nowhere")
KEPT: dict[str, Any] = {"checkpoint": {"every_steps": 1, "keep": 99, "every_seconds": None}}
USUAL = PARTS
OWN = {
    "batch": {"global_batch_size": 30, "micro_batch_size": 30},
    "stop": {"epochs": 8},
    "optimizer": {"name": "adamw"},
    "learning_rate": {"base": 0.02},
}
CASES: dict[str, dict[str, Any]] = {
    "nesterov, average": {"optimizer": {"name": "sgd", "nesterov": True, "weight_decay": 0.001}, "ema": {"decay": 0.9}},
    "lamb, clipped, cosine": {
        "optimizer": {"name": "lamb"}, "gradient": {"clip_norm": 0.5}, "learning_rate": {"base": 0.05, "decay": "cosine", "warmup_epochs": 1.0},
    },
    "lars": {"optimizer": {"name": "lars"}},
    "muon, two groups": {
        "optimizer": {"name": "muon"},
        "learning_rate": {"base": 0.01},
        "gradient": {"noise_every_steps": 2, "noise_norm": "optimizer"},
    },
    "batch-norm, last dropped": {
        "model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        "batch": {"global_batch_size": 8, "micro_batch_size": 8, "last": "drop"},
    },
    "augmented, accumulated": {
        "dataset": synthetic(84, 20, (1, 6, 6)) | {"augment": {"horizontal_flip": "alternating", "translate": 1}},
        "batch": {"global_batch_size": 8, "micro_batch_size": 3},
    },
    "documents": OWN | {
        "task": {"name": "language-modelling"}, "dataset": {"entry_point": "own_tasks:documents"},
        "model": {"name": "transformer", "arguments": {"width": 16, "depth": 1, "num_heads": 2}},
    },
    "contrastive": OWN | {
        "task": {"name": "contrastive"}, "dataset": {"entry_point": "own_tasks:views"}, "model": {"entry_point": "own_tasks:Towers"},
    },
}  # fmt: skip


def run(run_dir: Path, **parts: Any) -> Path:
    trained(small_runs.prepared(**(USUAL | parts)), run_dir)
    return run_dir


def opened(run_dir: Path, **wanted: Any) -> Origin:
    return open_origin(run_dir, Wanted(**wanted), CPU, NOWHERE)


def flat(branched: Branched) -> list[BranchResult]:
    return [result for of_point in branched.results.values() for result in of_point.values()]


@pytest.mark.parametrize("case", CASES)
def test_with_the_same_batch_it_is_the_run_that_goes_on(case: str, tmp_path: Path) -> None:
    """Weights and losses bit for bit, through the end of an epoch; so the other multiples differ in what they should alone."""
    run_dir = run(tmp_path / "run", **CASES[case], evaluation={"every_epochs": 0.01})
    samples = small_runs.prepared(**(USUAL | CASES[case])).plan.num_train_samples
    origin = opened(run_dir, steps=[3, 7], multiples=[2], num_samples=samples)
    branched = run_branches(origin, Ask(2, 0.5), BranchListener())
    assert branched.num_left == 0
    losses = {record.samples_seen: record.loss for record in evaluations(read_records(run_dir))}
    model = origin.job.model
    for of_point in branched.results.values():
        own, larger, other = of_point[0, 1], of_point[0, 2], of_point[1, 1]
        model.load_state_dict(parameters(run_dir, own.branch.step + own.num_steps))
        assert own.model_sha256 == digest(model)
        assert own.losses == tuple(losses[place] for place in own.branch.places)
        assert larger.model_sha256 != own.model_sha256 != other.model_sha256
        assert larger.num_steps < own.num_steps == other.num_steps
        assert (larger.covariance_trace == 0) == (case == "contrastive"), "noise is measured but of coupled losses"
        assert (larger.dual_variance > 0) == (case == "muon, two groups"), "and in the optimizer's own norm where that is asked for"


def test_a_larger_batch_is_its_gradient_with_its_rate(tmp_path: Path) -> None:
    """One step of plain SGD at four times the batch, restated in float64 from the run's own weights and samples."""
    run_dir = run(
        tmp_path / "run", optimizer={"name": "sgd", "momentum": 0.0}, learning_rate={"base": 0.1}, model={"name": "mlp", "arguments": {"depth": 0}}
    )
    origin = opened(run_dir, steps=[2], multiples=[4], num_samples=32)
    largest = run_branches(origin, Ask(2, 1.0), BranchListener()).results[origin.points[0]][0, 4]
    job = prepare(build_spec(origin.job.spec.model_dump(mode="json")), CPU, NOWHERE)
    inputs, labels = training_batches(job).read(Slice(0, 16, 48))
    test_inputs, test_labels = evaluation_batches(job, job.dataset.test).read(Slice(0, 0, 20))
    job.model.load_state_dict(parameters(run_dir, 2))
    weights = {name: value.double().requires_grad_() for name, value in job.model.state_dict().items()}
    logits = torch.func.functional_call(job.model.double(), weights, (inputs.double(),))
    torch.nn.functional.cross_entropy(logits, labels).backward()
    moved = {name: (value - 0.4 * value.grad).detach() for name, value in weights.items() if value.grad is not None}
    expected = torch.nn.functional.cross_entropy(torch.func.functional_call(job.model, moved, (test_inputs.double(),)), test_labels)
    assert largest.num_steps == 1
    assert largest.loss == pytest.approx(float(expected), rel=1e-6)


class TestGoingOn:
    """What was done is kept, whatever is asked besides, and a line cut short costs itself alone."""

    def test_a_branch_is_trained_once(self, tmp_path: Path) -> None:
        run_dir = run(tmp_path / "run")
        origin = opened(run_dir, steps=[3, 9], multiples=[2], num_samples=64)
        begun: list[Any] = []
        listener = BranchListener(on_begin=lambda done, of, branch, left: begun.append((done, of, branch)), should_stop=lambda: len(begun) >= 3)
        stopped = run_branches(origin, Ask(2, 0.5), listener)
        assert stopped.num_left == 8 - 2
        ledger = run_dir / BRANCHES / BRANCH_LEDGER
        ledger.write_bytes(ledger.read_bytes()[:-20])  # as a kill would leave it
        again: list[Any] = []
        whole = run_branches(origin, Ask(2, 0.5), BranchListener(on_begin=lambda done, of, branch, left: again.append(branch)))
        assert len(again) == 8 - 1
        alone = run_branches(opened(run(tmp_path / "other"), steps=[3, 9], multiples=[2], num_samples=64), Ask(2, 0.5), BranchListener())
        assert [(result.losses, result.model_sha256) for result in flat(whole)] == [(result.losses, result.model_sha256) for result in flat(alone)]
        wider = opened(run_dir, steps=[3, 9], num_samples=64, multiples=[2])
        run_branches(wider, Ask(3, 0.5), BranchListener(on_begin=lambda done, of, branch, left: again.append(branch)))
        assert {branch.order for branch in again[7:]} == {2}, "a third order is all that is new"

    def test_a_budget_leaves_whole_orders_out(self, tmp_path: Path) -> None:
        origin = opened(run(tmp_path / "run"), steps=[3], multiples=[2], num_samples=64)
        branched = run_branches(origin, Ask(2, 0.5, budget_s=1e-9), BranchListener())
        assert branched.num_left == 4
        answer, recipe = answer_of_branches(origin, Ask(2, 0.5), branched, None)
        assert (answer.places, recipe) == ([], None)
        assert answer.words == ["Nothing can be said so far: no checkpoint has 2 whole orders of its branches; 4 branches are left."]


@pytest.mark.parametrize("base", [None, 4, 8])
def test_an_average_of_weights_keeps_its_half_life_in_samples(base: int | None, tmp_path: Path) -> None:
    """One step of four times the batch, 32 samples, leaves of the average what four of the run's steps do: the decay once for each base batch."""
    run_dir = run(tmp_path / "run", ema={"decay": 0.9, "base_global_batch_size": base})
    origin = opened(run_dir, steps=[3], multiples=[4], num_samples=32)
    (point,) = origin.points
    branch = Branch(step=3, checkpoint=point.checkpoint.digest, order=0, multiple=4, power=0.5, places=(point.position.samples_seen + 32,))
    job, plan = branch_job(origin.job, branch)
    state = new_state(job)
    state.load_state_dict(load_checkpoint(point.checkpoint.path, CPU)["state"])
    assert state.average is not None
    before = [average.double().clone() for average in state.average.averages]
    optimizer_step(state, plan, plan.step_at(state.progress.position), training_batches(job), print)
    kept = 0.9 ** (32 / (base or 8))
    for average, past, weights in zip(state.average.averages, before, state.model.parameters(), strict=True):
        torch.testing.assert_close(average.double(), kept * past + (1 - kept) * weights.detach().double(), rtol=1e-5, atol=1e-7)


def test_branches_of_an_own_optimizer_are_found_by_advice(tmp_path: Path) -> None:
    run_dir = run(
        tmp_path / "run", optimizer={"entry_point": "torch.optim:NAdam"}, learning_rate={"base": 0.002}, stop={"epochs": 5, "target_accuracy": 1.0}
    )
    left = branch_run(opened(run_dir, steps=[3], multiples=[2], num_samples=84), Ask(2, 0.5), 1e6, BranchListener())
    assert left.answer.optimizer == "torch.optim:NAdam"
    (told,) = find(collect([run_dir])).growing
    assert (told.optimizer, told.verdict, [each.source for each in told.evidence]) == ("torch.optim:NAdam", "grow", ["measured"])


def test_a_rate_that_begins_again_follows_no_batch(tmp_path: Path) -> None:
    """A recipe with both is refused, so there would be branches without a schedule."""
    origin = opened(run(tmp_path / "run", learning_rate={"base": 0.05, "restart": {"epoch": 2.0, "base": 0.02}}), multiples=[2], num_samples=84)
    with pytest.raises(PlanError, match=r"--rate: run's rate begins again .*Branch it with --rate none"):
        run_branches(origin, Ask(2, 0.5), BranchListener())
    left = branch_run(origin, Ask(2, 0.0), 1e6, BranchListener())
    assert left.recipe is not None
    assert prepare(read_spec(str(left.recipe)), CPU, NOWHERE).plan.total_progress == origin.job.plan.total_progress


def test_a_branch_that_diverges_is_a_batch_with_loss(tmp_path: Path) -> None:
    """Linear regression, whose loss grows without end where the rate is above what its curvature allows: at four times the batch here."""
    parts = {
        "task": {"name": "regression"}, "dataset": {"name": "diabetes"}, "model": {"name": "mlp", "arguments": {"depth": 0}},
        "optimizer": {"name": "sgd", "momentum": 0.0}, "learning_rate": {"base": 0.1}, "stop": {"epochs": 14}, "batch": {"global_batch_size": 8},
        "checkpoint": {"every_steps": 40, "keep": 20},
    }  # fmt: skip
    run_dir = run(tmp_path / "run", **parts)
    origin = opened(run_dir, steps=[40], multiples=[2, 16], num_samples=4000)
    left = branch_run(origin, Ask(2, 1.0), None, BranchListener())
    (place,) = left.answer.places
    assert place.critical.excess[128] is None
    assert place.critical.critical_batch_size is not None
    assert place.critical.high is not None
    assert json.loads((left.folder / "answer.json").read_text())["places"][0]["critical"]["excess"]["128"] is None
    results = [json.loads(line) for line in (left.folder / BRANCH_LEDGER).read_text().splitlines()]
    own = [each for each in results if each["branch"]["multiple"] == 1]
    assert all(each["gradient_norm_squared"] > 0 for each in own)
    traces, norms = (sum(each[name] for each in own) for name in ("covariance_trace", "gradient_norm_squared"))
    assert place.noise_scale == pytest.approx(traces / norms), "one that diverges would have more of it than all others together"
    assert "2 orders tell the critical batch and its tolerance to a factor of about two, no closer: give --orders 4." in left.answer.words
    assert "The largest batch took 31 steps in each branch, and fewer than 32 tell little: give more --samples." in left.answer.words
    assert {path.name for path in left.folder.iterdir()} >= {"answer.json", "critical-batch.png", "branch-losses.png", BRANCH_LEDGER}


def test_a_run_that_diverges_where_it_goes_on_is_refused(tmp_path: Path) -> None:
    """It was stopped in time; its end is later now, as a resume may set it."""
    parts = {
        "task": {"name": "regression"}, "dataset": {"name": "diabetes"}, "model": {"name": "mlp", "arguments": {"depth": 0}},
        "optimizer": {"name": "sgd", "momentum": 0.0}, "learning_rate": {"base": 3.0}, "stop": {"steps": 6},
    }  # fmt: skip
    run_dir = run(tmp_path / "run", **parts)
    spec = json.loads((run_dir / "spec.json").read_text())
    (run_dir / "spec.json").write_text(json.dumps(spec | {"stop": spec["stop"] | {"steps": 400}}))
    origin = opened(run_dir, steps=[4], multiples=[2], num_samples=2400)
    with pytest.raises(InputError, match="run diverges where it goes on from step 4 at its own batch"):
        run_branches(origin, Ask(2, 0.0), BranchListener())


def test_a_damaged_checkpoint_and_one_of_another_recipe_are_refused(tmp_path: Path) -> None:
    run_dir = run(tmp_path / "run")
    origin = opened(run_dir, steps=[4], multiples=[2], num_samples=64)
    spec = origin.job.spec.model_copy(update={"seed": 7})
    other = replace(origin, job=replace(origin.job, spec=spec))
    with pytest.raises(CheckpointError, match="seed: the checkpoint was made with 0, and the spec now says 7"):
        run_branches(other, Ask(2, 0.0), BranchListener())
    path = origin.points[0].checkpoint.path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"is damaged.* choose others with --steps"):
        run_branches(origin, Ask(2, 0.0), BranchListener())


class TestSchedule:
    """The batch doubles where the critical batch has doubled, and never before that was measured."""

    @staticmethod
    def batches(*excesses: float) -> list[Any]:
        """Critical batches at each 100 samples: of batch 8, where the excess of 32 samples, 0.1 in tolerances, passes 1 at 8 + 24 / (10 excess)."""
        rows = [np.array([[-1.0, -1.0 + each], [1.0, 1.0 + each]]) for each in excesses]
        return [(100 * number, critical_batch(losses, (1, 4), 8, tolerance=1.0)) for number, losses in enumerate(rows, 1)]

    def test_it_follows_the_critical_batch(self) -> None:
        spec = build_spec(small_runs.document(batch={"global_batch_size": 8, "micro_batch_size": 8}, stop={"steps": 125}))
        plan = small_runs.planned(100, batch={"global_batch_size": 8, "micro_batch_size": 8}, stop={"steps": 125})
        # Excess 4, 1.5, 5, 2, 0.5: critical 14, 24, 12.8, 20, above 32.
        batches = self.batches(4.0, 1.5, 5.0, 2.0, 0.5)
        assert [round(batch.critical_batch_size or 0, 1) for _, batch in batches] == [14.0, 24.0, 12.8, 20.0, 0.0]
        scheduled = batch_schedule(plan, batches, 0.5)
        assert scheduled is not None
        schedule, recipe = scheduled
        assert (schedule.growth, schedule.places, schedule.rate_follows) == ([(4.0, 2), (5.0, 4)], [400, 500], "sqrt")
        # 125 steps of 8 over 100 samples: 9 epochs of 13 steps, and 8 steps, 64 samples, of the tenth.
        assert recipe.stop.steps is None
        assert recipe.stop.epochs == pytest.approx(9.64)
        # Four epochs of 13 steps, one of 7 (of 16), four of 4 (of 32), and of the last 64 samples 2.
        assert (schedule.num_constant_steps, schedule.num_steps) == (125, 4 * 13 + 7 + 4 * 4 + 2)
        assert recipe.batch.schedule.rate_follows == "sqrt"
        assert recipe.name == f"{spec.name}-grown"

    def test_its_recipe_is_read_back(self, tmp_path: Path) -> None:
        plan = small_runs.planned(100, batch={"global_batch_size": 8, "micro_batch_size": 8}, stop={"epochs": 10})
        scheduled = batch_schedule(plan, self.batches(2.0), 1.0)
        assert scheduled is not None
        (tmp_path / "grown.yaml").write_text(as_yaml(scheduled[1], ["why: this"]))
        assert read_spec(str(tmp_path / "grown.yaml")) == scheduled[1]

    def test_there_is_none_where_twice_the_batch_loses(self) -> None:
        plan = small_runs.planned(100, batch={"global_batch_size": 8, "micro_batch_size": 8}, stop={"epochs": 10})
        assert batch_schedule(plan, self.batches(2.0, 4.0), 1.0) is None


class Remembers(nn.Sequential):
    """A model that keeps something of the samples that pass, which depends on how a batch is split."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, num_classes))
        self.register_buffer("seen", torch.zeros(36))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.copy_(inputs.detach().flatten(1).mean(dim=0))
        return super().forward(inputs)


class TestRefusals:
    """One sentence, and nothing is written."""

    @staticmethod
    def refused(kind: type[Exception], run_dir: Path, **wanted: Any) -> str:
        before = sorted(run_dir.rglob("*"))
        with pytest.raises(kind) as refused:
            opened(run_dir, **wanted)
        assert sorted(run_dir.rglob("*")) == before
        return str(refused.value)

    def test_no_run_and_no_checkpoints(self, tmp_path: Path) -> None:
        assert "is not a run's folder" in self.refused(InputError, tmp_path)
        run_dir = run(tmp_path / "run", stop={"steps": 3})
        for path in (run_dir / "checkpoints").iterdir():
            path.unlink()
        assert "has no checkpoint to branch from. A run keeps them with --set checkpoint.every_steps=N" in self.refused(CheckpointError, run_dir)

    def test_checkpoints_too_late_or_not_there(self, tmp_path: Path) -> None:
        run_dir = run(tmp_path / "run", checkpoint={"keep": 1, "every_seconds": None})
        told = self.refused(CheckpointError, run_dir, multiples=[2], num_samples=300)
        assert "a branch of 300 samples must begin before sample 120 of 420, where the run ends" in told
        assert "checkpoint.keep=20. What fits: --multiples 2 --samples " in told
        assert "it has checkpoints of step" in told
        assert "has no checkpoint of step 4; it has step" in self.refused(CheckpointError, run_dir, steps=[4])

    @pytest.mark.parametrize(
        ("wanted", "too_short"),
        [
            ({}, "is too short for 32 steps of the largest batch, 64: 2,048 samples, and the whole run is 420."),
            ({"multiples": [4]}, "is too short for 32 steps of the largest batch, 32: 1,024 samples, and the whole run is 420."),
            ({"num_samples": 512, "steps": [2]}, "is too short for a branch: 512 samples, and the whole run is 420."),
        ],
        ids=str,
    )
    def test_a_run_that_is_too_short_says_what_fits(self, wanted: dict[str, Any], too_short: str, tmp_path: Path) -> None:
        """Five epochs of 84 samples, from step 1 or 2 of 8 samples each; what is said to fit does."""
        run_dir = run(tmp_path / "run")
        told = self.refused(InputError, run_dir, **wanted)
        left = 420 - 8 * (2 if "steps" in wanted else 1)
        assert too_short in told
        assert f"What fits: --multiples 2 --samples {left}." in told
        origin = opened(run_dir, multiples=[2], num_samples=left, steps=wanted.get("steps"))
        assert (origin.num_samples, origin.multiples, len(origin.points)) == (left, (1, 2), 1)

    def test_a_run_that_diverged(self, tmp_path: Path) -> None:
        run_dir = run(tmp_path / "run", stop={"epochs": 2})
        summary = json.loads((run_dir / "summary.json").read_text())
        (run_dir / "summary.json").write_text(json.dumps(summary | {"outcome": "diverged"}))
        assert "run diverged, so no batch of its recipe is one without loss" in self.refused(InputError, run_dir)

    def test_other_data(self, tmp_path: Path) -> None:
        run_dir = run(tmp_path / "run")
        began_with = json.loads((run_dir / "data.json").read_text())
        began_with["train"]["sketch"]["length"] *= 2
        (run_dir / "data.json").write_text(json.dumps(began_with))
        assert "dataset: is not the run's:" in self.refused(DataError, run_dir, steps=[3], multiples=[2])

    def test_a_batch_beyond_the_training_set(self, tmp_path: Path) -> None:
        run_dir = run(tmp_path / "run")
        told = self.refused(PlanError, run_dir, multiples=[2, 16])
        assert "--multiples: 16 times the batch of 8 is more than the 84 samples of the training set. The largest is 10." in told
        assert "1 alone has nothing" in self.refused(InputError, run_dir, multiples=[1])
        assert "every multiple must divide the largest" in self.refused(InputError, run_dir, multiples=[2, 3])
        assert "are less than one step of the largest batch" in self.refused(InputError, run_dir, multiples=[4], num_samples=20)
        assert "twice the batch of 8 has no room" in self.refused(PlanError, run_dir, num_samples=20)

    @pytest.mark.parametrize(
        ("parts", "why"),
        [
            ({"batch": {"global_batch_size": 8, "schedule": {"growth": [{"epoch": 1.0, "factor": 2.0}]}}}, "its batch changes while it trains"),
            ({"learning_rate": {"base": 0.1, "scaling": "adascale", "base_global_batch_size": 4}, "gradient": {}, "stop": {"epochs": 1},
              "batch": {"global_batch_size": 8, "micro_batch_size": 4}}, "AdaScale sets rate and progress"),
        ],
        ids=["growth", "adascale"],
    )  # fmt: skip
    def test_what_follows_no_single_batch(self, tmp_path: Path, parts: dict[str, Any], why: str) -> None:
        assert why in self.refused(PlanError, run(tmp_path / "run", **parts))

    def test_a_model_that_cannot_be_split(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A multiple is accumulated over micro-batches, as a batch that grows is."""
        monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])
        run_dir = run(tmp_path / "run", model={"entry_point": "own_code:Remembers"}, gradient={"noise_every_steps": 0})
        assert "seen keeps something of the samples" in self.refused(PlanError, run_dir, multiples=[2], num_samples=64)
