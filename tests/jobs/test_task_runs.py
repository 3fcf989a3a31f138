"""Whole runs of every task: they learn, they resume as if never stopped, and any split gives the same."""

from pathlib import Path
from typing import Any

import pytest
import small_runs
from small_runs import distance, parameters, trained

from largebatch.jobs.errors import CodeError, InputError, PlanError, SpecError
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.records import Outcome

OWN = "own_tasks"
ADAM = {"optimizer": {"name": "adamw"}, "learning_rate": {"base": 0.02}}


def task(**parts: Any) -> dict[str, Any]:
    return {**ADAM, "batch": {"global_batch_size": 30, "micro_batch_size": 30}, "stop": {"epochs": 6}, **parts}


TASKS: dict[str, dict[str, Any]] = {
    "class weights": task(
        task={"name": "classification", "class_weights": [1, 2, 0.5, 3]}, dataset=small_runs.synthetic(num_train=120, num_test=40)
    ),
    "sample weights": task(
        task={"name": "classification", "sample_weights": True},
        dataset={"entry_point": f"{OWN}:weighted"}, model={"entry_point": f"{OWN}:linear"},
    ),
    "soft labels": task(
        task={"name": "classification", "soft_labels": True},
        dataset={"entry_point": f"{OWN}:weighted", "arguments": {"kind": "shares"}}, model={"name": "mlp"},
    ),
    "regression": task(task={"name": "regression"}, dataset={"entry_point": f"{OWN}:curve"}, model={"name": "mlp"}),
    "documents": task(
        task={"name": "language-modelling"}, dataset={"entry_point": f"{OWN}:documents"},
        model={"name": "transformer", "arguments": {"width": 16, "depth": 1, "num_heads": 2}},
    ),
    "focal": task(task={"entry_point": f"{OWN}:Focal"}, dataset=small_runs.synthetic(num_train=120, num_test=40),
                  model={"entry_point": f"{OWN}:classifier"}),
    "two inputs": task(task={"entry_point": f"{OWN}:PairMatch"}, dataset={"entry_point": f"{OWN}:pairs"}, model={"entry_point": f"{OWN}:Compare"}),
    "denoising": task(task={"entry_point": f"{OWN}:Denoise"}, dataset={"entry_point": f"{OWN}:pictures"}, model={"entry_point": f"{OWN}:Denoiser"}),
    "contrastive": task(task={"name": "contrastive"}, dataset={"entry_point": f"{OWN}:views"}, model={"entry_point": f"{OWN}:Towers"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_it_learns_and_any_split_gives_the_same(name: str, tmp_path: Path) -> None:
    """Micro-batches of 7: four of them and one of 2 in each step."""
    document = TASKS[name]
    split = {**document, "batch": {"global_batch_size": 30, "micro_batch_size": 7}}
    jobs = [small_runs.prepared(**parts) for parts in (document, split)]
    whole, pieces = (trained(job, tmp_path / str(number)) for number, job in enumerate(jobs))
    assert whole.headline.name == jobs[0].metric.name
    losses = [record.loss for record in evaluations(read_records(tmp_path / "0"))]
    assert min(losses[1:]) < losses[0], losses
    assert distance(parameters(tmp_path / "0"), parameters(tmp_path / "1")) < 2e-3  # Adam divides by what is as small as rounding at first
    assert pieces.score == pytest.approx(whole.score, abs=0.05)


@pytest.mark.parametrize("name", ["documents", "denoising", "contrastive", "two inputs"])
def test_a_resumed_run_is_one_that_never_stopped(name: str, tmp_path: Path) -> None:
    document = {**TASKS[name], "checkpoint": {"every_steps": 3, "keep": 9, "every_seconds": None}}
    whole = trained(small_runs.prepared(**document), tmp_path / "whole")
    short = {**document, "stop": {"epochs": 6, "steps": 5}}
    trained(small_runs.prepared(**{**short, "learning_rate": {"base": 0.02}}), tmp_path / "parts")
    resumed = trained(small_runs.prepared(**document), tmp_path / "parts", resumes=True)
    assert resumed.parameters_sha256 == whole.parameters_sha256
    assert resumed.score == whole.score


class TestTargets:
    def test_a_metric_that_falls_is_met_from_above(self, tmp_path: Path) -> None:
        document = {**TASKS["regression"], "stop": {"epochs": 40, "target": {"metric": "mae", "value": 0.1}}}
        summary = trained(small_runs.prepared(**document), tmp_path)
        records = list(evaluations(read_records(tmp_path)))
        assert (summary.outcome, summary.target, summary.headline.better) == (Outcome.REACHED, 0.1, "lower")
        assert [record.score <= 0.1 for record in records] == [False] * (len(records) - 1) + [True]
        assert all(record.score == record.scores["mae"] for record in records)
        assert {"rmse", "mae", "r2", "loss"} == set(records[0].scores)
        assert summary.best_score == min(record.score for record in records)

    def test_one_that_is_never_met_is_a_miss(self, tmp_path: Path) -> None:
        document = {**TASKS["regression"], "stop": {"epochs": 2, "target": {"metric": "r2", "value": 1.5}}}
        assert trained(small_runs.prepared(**document), tmp_path).outcome is Outcome.MISSED

    def test_a_resume_may_aim_at_another_metric(self, tmp_path: Path) -> None:
        first = {**TASKS["regression"], "stop": {"epochs": 4, "target": {"metric": "r2", "value": 1.5}}}
        trained(small_runs.prepared(**first), tmp_path)
        scores = [record.scores["mae"] for record in evaluations(read_records(tmp_path))]
        second = {**first, "stop": {"epochs": 4, "target": {"metric": "mae", "value": 1e9}, "at_target": False}}
        resumed = trained(small_runs.prepared(**second), tmp_path, resumes=True)
        assert (resumed.headline.name, resumed.best_score) == ("mae", min(scores))
        assert resumed.steps_to_target == next(iter(evaluations(read_records(tmp_path)))).step

    @pytest.mark.parametrize(
        ("stop", "error", "words"),
        [
            ({"target": {"metric": "accuracy", "value": 0.9}}, PlanError, "regression has no metric accuracy. Known: loss, mae, r2, rmse"),
            ({"target_accuracy": 0.9}, PlanError, "stop.target_accuracy: regression has no metric accuracy"),
            ({"target": {"metric": "mae", "value": 1.0}, "target_accuracy": 0.9}, SpecError, "give one of target and target_accuracy"),
            ({"target": {"metric": "mae"}}, SpecError, "stop.target.value: is missing"),
        ],
    )
    def test_others_are_refused(self, stop: dict[str, Any], error: type[InputError], words: str) -> None:
        with pytest.raises(error, match=words):
            small_runs.prepared(**{**TASKS["regression"], "stop": {"epochs": 2, **stop}})


class TestRefused:
    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ({"task": {"entry_point": f"{OWN}:Mean"}}, "task: its loss is a mean over the samples"),
            ({"task": {"entry_point": f"{OWN}:Vector"}}, r"task: its loss is \(8,\) float32; it must be one floating-point number"),
            ({"task": {"entry_point": f"{OWN}:Compare"}}, "must return a largebatch.Task"),
            ({"task": {"entry_point": f"{OWN}:Focal", "arguments": {"gama": 1}}}, "does not take these arguments"),
            ({"task": {"name": "regresion"}}, "Did you mean regression"),
            ({"task": "regression"}, "Did you mean task.name"),
            ({"task": {"name": "regression", "deltas": 1.0}}, "task.deltas: is not a known key. Did you mean delta"),
            ({"task": {"name": "regression", "delta": 0.0}}, "task.delta: must be above 0"),
            ({"task": {"name": "regression", "delta": 2.0}}, "loss 'mse' does not read delta; huber does"),
            ({"task": {"entry_point": f"{OWN}:Unheaded"}}, "headline of own_tasks:Unheaded is 'f1'; it must be a largebatch.Metric"),
            ({"task": {"name": "classification", "class_weights": [1.0]}}, "has 1 weights for 4 classes"),
            ({"task": {"name": "masked-language-modelling"}}, "which token hides another is not known"),
            ({"task": {"name": "multi-label"}, "loss": {"label_smoothing": 0.1}}, "is of classification, and the task is multi-label"),
        ],
    )
    def test_before_anything_starts(self, parts: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            small_runs.prepared(**{**TASKS["focal"], **parts})

    def test_metrics_that_are_no_numbers_end_the_run_in_words(self, tmp_path: Path) -> None:
        job = small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:Nameless"}})
        with pytest.raises((InputError, CodeError), match="its metrics give no number for kappa; they give accuracy, loss"):
            trained(job, tmp_path)

    @pytest.mark.parametrize(
        ("name", "words"), [("VectorWeight", r"its weight of a batch is \(\d+,\)"), ("VectorMetric", r"its sum accuracy over a batch is \(\d+,\)")]
    )
    def test_what_must_be_one_number_is_said_to_be_none(self, name: str, words: str, tmp_path: Path) -> None:
        with pytest.raises((InputError, CodeError), match=f"{words}.*must be one number"):
            trained(small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:{name}"}}), tmp_path)

    def test_local_steps_of_a_loss_that_couples_samples(self) -> None:
        with pytest.raises(PlanError, match=r"reduction.local_steps: each worker would compare its own samples alone"):
            small_runs.prepared(world_size=2, **{**TASKS["contrastive"], "reduction": {"local_steps": 2}})
