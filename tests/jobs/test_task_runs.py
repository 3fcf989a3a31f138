"""Whole runs of every task: they learn, they resume as if never stopped, and any split gives the same."""

import re
import statistics
from pathlib import Path
from typing import Any

import own_tasks
import pytest
import small_runs
import torch
from small_runs import distance, parameters, prepared, trained
from torch.nn import functional
from torch.utils.data import TensorDataset

from largebatch.jobs import reporting
from largebatch.jobs.data.sources.validation import some_samples
from largebatch.jobs.engine.gradient import share
from largebatch.jobs.errors import CodeError, DataError, InputError, PlanError, SpecError
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.records import EvalRecord, NoticeRecord, Outcome, StepRecord
from largebatch.jobs.samples.dataset import Tensors
from largebatch.jobs.samples.keyed_random import sample_order
from largebatch.jobs.samples.slice import Slice

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
    "random views": task(task={"name": "contrastive", "loss": "simclr", "views": "simclr", "neighbours": 5, "temperature": 0.5},
                         dataset=small_runs.synthetic(num_train=120, num_test=40, shape=(3, 8, 8)),
                         model={"entry_point": f"{OWN}:Encoder"}),
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


@pytest.mark.parametrize("name", ["documents", "denoising", "contrastive", "random views", "two inputs"])
def test_a_resumed_run_is_one_that_never_stopped(name: str, tmp_path: Path) -> None:
    document = {**TASKS[name], "checkpoint": {"every_steps": 3, "keep": 9, "every_seconds": None}}
    whole = trained(small_runs.prepared(**document), tmp_path / "whole")
    short = {**document, "stop": {"epochs": 6, "steps": 5}}
    trained(small_runs.prepared(**{**short, "learning_rate": {"base": 0.02}}), tmp_path / "parts")
    resumed = trained(small_runs.prepared(**document), tmp_path / "parts", resumes=True)
    assert resumed.parameters_sha256 == whole.parameters_sha256
    assert resumed.score == whole.score


def test_two_passes_over_a_batch_read_each_sample_once(tmp_path: Path) -> None:
    """Of a set that is read one by one; the weights are those of one that is held."""
    held = {**TASKS["contrastive"], "batch": {"global_batch_size": 30, "micro_batch_size": 7}, "stop": {"epochs": 3}}
    job = small_runs.prepared(**{**held, "dataset": {"entry_point": f"{OWN}:counted_views"}})
    one_by_one = trained(job, tmp_path / "one by one")
    assert statistics.median(job.dataset.train.num_reads.values()) == 3
    assert trained(small_runs.prepared(**held), tmp_path / "held").parameters_sha256 == one_by_one.parameters_sha256


def test_what_has_no_room_while_it_is_weighed_is_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that are learned are the same bits; samples that are others then end the run."""
    document = {**TASKS["documents"], "batch": {"global_batch_size": 30, "micro_batch_size": 7}, "stop": {"epochs": 2}}
    sets = [{"entry_point": f"{OWN}:documents", "arguments": {"one_by_one": one_by_one}} for one_by_one in (False, True)]
    found = set()
    for room in (2**30, 2000):
        monkeypatch.setattr(share, "MOST_KEPT_BYTES", room)
        monkeypatch.setattr(share, "MOST_KEPT_BYTES_OF_HELD", room)
        for number, dataset in enumerate(sets):
            found.add(trained(small_runs.prepared(**{**document, "dataset": dataset}), tmp_path / f"{room} {number}").parameters_sha256)
    assert len(found) == 1
    with pytest.raises(DataError, match=r"samples of step \d+ weigh \d+ when they are read once more, and weighed \d+\. Draw from torch's"):
        trained(small_runs.prepared(**{**document, "dataset": {"entry_point": f"{OWN}:unsteady"}}), tmp_path / "unsteady")


def test_partners_that_many_samples_share_are_found_in_a_run(tmp_path: Path) -> None:
    """32 samples of 6 partners: ties of the very same counted against all, and nothing was ever recalled."""
    summary = trained(small_runs.prepared(**{**TASKS["contrastive"], "dataset": {"entry_point": f"{OWN}:captioned"}}), tmp_path)
    scores = [record.scores for record in evaluations(read_records(tmp_path))][-1]
    assert scores["recall_at_5"] > 5 / 6 - 0.2  # of six by chance
    assert summary.score is not None
    assert summary.score > 0


class TestOwnPairs:
    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("mean", "task: its loss_blocks of 8 rows give .* at once, and .* in two halves: workers, which have rows of their own"),
            ("detached", "task: its loss_blocks give a piece without a gradient"),
            ("vector", r"task: its loss is \(2,\) float32; it must be one floating-point number"),
            ("number", "task: its loss is a float; it must be one floating-point number"),
            ("failing", "task: its loss failed on 8 samples .* in training: KeyError: 'rows'"),
        ],
    )
    def test_blocks_that_do_not_add_up_to_a_loss_are_refused(self, how: str, words: str) -> None:
        with pytest.raises(PlanError, match=words):
            small_runs.prepared(**{**TASKS["contrastive"], "task": {"entry_point": f"{OWN}:OddBlocks", "arguments": {"how": how}}})

    def test_scores_that_are_no_numbers_are_told_in_words(self, tmp_path: Path) -> None:
        job = small_runs.prepared(**{**TASKS["contrastive"], "task": {"entry_point": f"{OWN}:WordyPairs"}})
        with pytest.raises(PlanError, match="task: its metric recall_at_1 is a str; they give"):
            trained(job, tmp_path)


class TestNearestNeighbours:
    """A task that couples samples, whose evaluation compares with training samples: restated from the run's own weights, in float64."""

    @staticmethod
    def expected(job: Prepared, of: int | None, references: Any) -> float:
        """Of the test samples. Args: of: which output is compared; references: numbers of training samples."""
        parts = [job.dataset.train.gather(references), job.dataset.test.batch]
        (near, classes), (features, labels) = (
            (job.model(*part[:2])["representation" if of is None else of].detach().double(), part[2]) for part in parts
        )
        cosines = functional.normalize(features, dim=1) @ functional.normalize(near, dim=1).T
        hits = 0
        for row, label in zip(cosines, labels.tolist(), strict=True):
            chosen = row.argsort(descending=True)[:5]
            votes = torch.zeros(3, dtype=torch.float64).index_add(0, classes[chosen], (row[chosen] / 0.07).exp())
            hits += int(votes.argmax()) == label
        return hits / len(labels)

    @pytest.mark.parametrize(("model", "of"), [("Encoder", None), ("Named", "first")])
    def test_it_is_the_vote_of_training_samples(self, model: str, of: str | None, tmp_path: Path) -> None:
        """By the representation where the model gives one, else by the first embedding; the split of evaluation changes nothing."""
        document = {
            **TASKS["contrastive"],
            "task": {"name": "contrastive", "labels": True, "neighbours": 5},
            "dataset": {"entry_point": f"{OWN}:views", "arguments": {"labelled": True, "num_test": 300}},
            "model": {"entry_point": f"{OWN}:{model}"},
            "stop": {"epochs": 1},
        }
        job = small_runs.prepared(**document)
        summary = trained(job, tmp_path)
        assert summary.headline.name == "knn_accuracy"
        assert 0.4 < summary.score < 1
        assert summary.score == pytest.approx(self.expected(job, of, torch.arange(96)), abs=1e-9)

    def test_references_are_some_of_the_training_samples_the_same_for_every_run(self, tmp_path: Path) -> None:
        task = {"name": "contrastive", "labels": True, "neighbours": 5, "references": 40}
        dataset = {"entry_point": f"{OWN}:views", "arguments": {"labelled": True}}
        parts = []
        for seed in (0, 1):
            job = small_runs.prepared(**{**TASKS["contrastive"], "task": task, "dataset": dataset, "seed": seed})
            references = new_state(job).references
            assert references is not None
            assert references.num_samples == 40
            parts.append(references.batches.read(Slice(0, 0, 40)))
        assert torch.equal(parts[0][0], parts[1][0])
        train = job.dataset.train.batch
        places = [int((train[0] == row).all(1).nonzero()) for row in parts[0][0]]
        assert places == sorted(set(places))
        assert places != list(range(40))
        assert torch.equal(parts[0][2], train[2][places])


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


def test_tokens_are_counted_beside_samples(tmp_path: Path) -> None:
    """Sequences of 12 tokens: 30 of them are 360, and it is the same run."""
    document = {**TASKS["documents"], "stop": {"epochs": 2}}
    trained(small_runs.prepared(**document), tmp_path / "samples")
    job = small_runs.prepared(**{**document, "batch": {"global_batch_tokens": 360, "micro_batch_size": 30}})
    summary = trained(job, tmp_path / "tokens")
    assert summary.global_batch_size == 30
    assert parameters(tmp_path / "samples").keys() == parameters(tmp_path / "tokens").keys()
    assert distance(parameters(tmp_path / "samples"), parameters(tmp_path / "tokens")) == 0.0
    records = [record for record in read_records(tmp_path / "tokens") if isinstance(record, (StepRecord, EvalRecord))]
    assert all(record.tokens_seen == 12 * record.samples_seen for record in records)
    assert (summary.tokens_per_sample, summary.tokens_seen) == (12, 12 * summary.samples_seen)
    assert summary.tokens_per_second == pytest.approx(12 * summary.samples_per_second)
    assert dict(job.plan_in_words())["global batch"].startswith("30 samples (360 tokens) per step")
    with pytest.raises(PlanError, match=r"batch\.global_batch_tokens: 350 tokens are no whole number .* of 12 tokens\. Nearest: 348 or 360"):
        small_runs.prepared(**{**document, "batch": {"global_batch_tokens": 350}})
    with pytest.raises(PlanError, match="do not count in tokens"):
        small_runs.prepared(**{**TASKS["regression"], "batch": {"global_batch_tokens": 350}})


def test_samples_that_stand_for_all_are_of_the_whole_set(tmp_path: Path) -> None:
    """The targets come one after the other, as classes and books do; and in turn, so that no stride may choose them."""
    for targets in (torch.arange(640) // 64, torch.arange(640) % 10):
        for part in (TensorDataset(torch.ones(640, 3), targets), Tensors((torch.ones(640, 3), targets))):
            chosen = some_samples(part, 64)
            shown = chosen.batch[1].tolist() if isinstance(chosen, Tensors) else [int(target) for _, target in chosen]
            assert len(shown) == 64
            assert len(set(shown)) == 10
            assert some_samples(part, 640) is part


def test_the_training_score_is_of_samples_that_stand_for_all(tmp_path: Path) -> None:
    """Of 40 training samples 20 are scored, as many as are tested: not the first ones."""
    job = small_runs.prepared(**{**TASKS["regression"], "stop": {"steps": 1}})
    number = len(job.dataset.test)
    assert number < len(job.dataset.train)
    summary = trained(job, tmp_path)
    inputs, targets = some_samples(job.dataset.train, number).batch
    with torch.no_grad():
        rmse = (job.model.eval()(inputs).reshape(targets.shape) - targets).double().square().mean().sqrt()
    assert summary.train_score == pytest.approx(float(rmse), rel=1e-5)


def test_partners_are_looked_for_among_as_many_training_samples_as_are_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 120 with classes all were scored, in place of 40: a harder search, and on CIFAR-10 five times as long as the test."""
    asked: list[int] = []

    def some(part: Any, number: int) -> Any:
        asked.append(number)
        return some_samples(part, number)

    monkeypatch.setattr(reporting, "some_samples", some)
    trained(small_runs.prepared(**{**TASKS["random views"], "stop": {"steps": 1}}), tmp_path / "pairs")
    trained(small_runs.prepared(**{**TASKS["focal"], "stop": {"steps": 1}}), tmp_path / "classes")
    assert asked == [40, 120]


class TestRefused:
    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ({"task": {"entry_point": f"{OWN}:Mean"}}, "task: its loss is a mean over the samples"),
            ({"task": {"entry_point": f"{OWN}:Vector"}}, r"task: its loss is \(8,\) float32; it must be one floating-point number"),
            ({"task": {"entry_point": f"{OWN}:Detached"}}, "task: its loss has no gradient in training, though what the model gives has one"),
            ({"task": {"entry_point": f"{OWN}:Compare"}}, "must return a largebatch.Task"),
            ({"task": {"entry_point": f"{OWN}:Focal", "arguments": {"gama": 1}}}, "does not take these arguments"),
            ({"task": {"name": "regresion"}}, "Did you mean regression"),
            ({"task": "regression"}, "Did you mean task.name"),
            ({"task": {"name": "regression", "deltas": 1.0}}, "task.deltas: is not a known key. Did you mean delta"),
            ({"task": {"name": "regression", "delta": 0.0}}, "task.delta: must be above 0"),
            ({"task": {"name": "regression", "delta": 2.0}}, "loss 'mse' does not read delta; huber does"),
            ({"task": {"entry_point": f"{OWN}:Unheaded"}}, "headline of own_tasks:Unheaded is 'f1'; it must be a largebatch.Metric"),
            ({"task": {"entry_point": f"{OWN}:Upward"}}, "the metric accuracy of own_tasks:Upward is better 'up'; it must be 'higher' or 'lower'"),
            (
                {"stop": {"epochs": 1, "target": {"metric": "accuracy", "value": 93}}},
                r"stop\.target\.value: is 93, and accuracy is a fraction\. Write 0\.93 for 93 %",
            ),
            ({"stop": {"epochs": 1, "target": {"metric": "accuracy", "value": -1}}}, "Give a number between 0 and 1"),
            ({"task": {"name": "contrastive"}, "batch": {"global_batch_size": 1}}, "is 1, and the loss compares each sample with the others"),
            ({"task": {"name": "classification", "class_weights": [1.0]}}, "has 1 weights for 4 classes"),
            (
                {
                    "task": {"name": "contrastive", "labels": True},
                    "dataset": {"entry_point": f"{OWN}:views"},
                    "model": {"entry_point": f"{OWN}:Towers"},
                },
                r"task.labels: is set, and a sample ends with float32 of shape \(\d+,\), not with the number of its class",
            ),
            ({"task": {"name": "contrastive", "neighbours": 5}}, "neighbours is of knn_accuracy, which needs labels"),
            ({"task": {"name": "contrastive", "views": "simclr"}}, "task.views: change colours of uint8 images"),
            ({"task": {"name": "contrastive"}, "model": {"entry_point": f"{OWN}:Same"}}, "gives no two embeddings of the same shape in training"),
            ({"task": {"name": "masked-language-modelling"}}, "which token hides another is not known"),
            ({"task": {"name": "multi-label"}, "loss": {"label_smoothing": 0.1}}, "is of classification, and the task is multi-label"),
        ],
    )
    def test_before_anything_starts(self, parts: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            small_runs.prepared(**{**TASKS["focal"], **parts})

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("Nameless", "task: its metrics give no number for kappa; they give loss, accuracy"),
            ("Worded", "task: its metric accuracy is a str; they give loss, accuracy"),
            ("FurtherWords", "task: its metrics give verdict, which none of its metrics is called, and it is a str"),
            ("Complex", r"task: its sum accuracy over a batch is \(\) of complex numbers; it must be one number"),
            ("Nothing", r"task: its prepare gives no tensor for \d+ sample"),
            ("NotANumber", "task: its metric_sums give nan as accuracy of 8 samples"),
            ("Beyond", "task: its metric accuracy is 2.4 before training, and it was declared a fraction"),
            ("Failing", "task: its metric_sums failed on 8 samples: KeyError: 'labels'"),
            ("VectorWeight", r"its weight over a batch is \(8,\); it must be one number|its sum .* is \(8,\); it must be one number"),
            ("VectorMetric", r"its sum accuracy over a batch is \(8,\); it must be one number"),
            ("WeightedMean", "task: its loss is divided by what the samples weigh"),
            ("Breaking", r"task: its loss failed on 8 samples of shape .*, float32, in training: KeyError: 'mask' \(.*own_tasks\.py, line \d+\)"),
            ("Owing", r"task: training sample \d weighs -1 by its weight; weights must be finite, and at least 0"),
        ],
    )
    def test_what_metrics_and_losses_must_be_is_known_before_anything_trains(self, name: str, words: str) -> None:
        with pytest.raises(PlanError, match=words):
            small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:{name}"}})

    @pytest.mark.parametrize(("kind", "share"), [("mean", 1e-3), ("mean", 0.3), ("weighted mean", 0.1), ("constant", 0.1)])
    @pytest.mark.parametrize("normalises", [False, True])
    def test_a_term_of_the_batch_as_a_whole_is_refused_however_small(self, kind: str, share: float, normalises: bool) -> None:
        """The step's loss would follow the micro-batch; behind batch-norm a tenth of the gradient passed without a word."""
        own = {"task": {"entry_point": f"{OWN}:Balanced", "arguments": {"share": share, "kind": kind}}}
        model = {"model": {"entry_point": f"{OWN}:classifier", "arguments": {"normalises": normalises}}}
        norm = {"batch_norm": {"span": 5}} if normalises else {}
        with pytest.raises(PlanError, match=r"task: its loss is no sum over samples: .* apart; micro-batches and workers would change"):
            small_runs.prepared(**{**TASKS["focal"], **own, **model, **norm})

    def test_outputs_and_targets_that_broadcast_are_named_by_their_shapes(self) -> None:
        own = {"dataset": {"entry_point": f"{OWN}:numbers"}, "model": {"entry_point": f"{OWN}:one_number"}}
        with pytest.raises(
            PlanError, match=r"no sum over samples: .* The model gives \(8, 1\) and the samples hold \(8,\): .* broadcast to \(8, 8\)"
        ):
            small_runs.prepared(**{**TASKS["focal"], **own, "task": {"entry_point": f"{OWN}:Broadcast"}})
        target = {"stop": {"epochs": 1, "target": {"metric": "rmse", "value": 0.1}}}
        with pytest.raises(PlanError) as refused:
            small_runs.prepared(**{**TASKS["focal"], **own, **target, "task": {"entry_point": f"{OWN}:Flat"}})
        assert "own has no metric rmse." in str(refused.value)
        assert 'headline = largebatch.Metric("rmse", "lower")' in refused.value.hint, "what a task gives it must declare"

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("doubled", r"task: its prepare gives \(\d+, 1, 4, 4\) in 0 for \d+ samples?\."),
            ("uneven", r"task: its prepare gives \(\d+,\) in 1 for \d+ samples?\."),
            ("one", r"task: its prepare gives \(\) in 1 for \d+ samples?\."),
            ("no tensor", "task: its prepare gives what is no batch: a int is neither a tensor nor"),
        ],
    )
    def test_samples_that_a_task_makes_more_of_are_refused(self, kind: str, words: str, tmp_path: Path) -> None:
        """A step divided by the samples that were read, an evaluation by those that were prepared."""
        with pytest.raises(PlanError, match=words):
            small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:Preparing", "arguments": {"kind": kind}}})
        job = small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:Preparing", "arguments": {"kind": kind, "above": 30}}})
        with pytest.raises(PlanError, match=words):
            trained(job, tmp_path)  # evaluates more at once than it trains on

    def test_a_weight_that_is_put_on_the_object_is_read_everywhere(self, tmp_path: Path) -> None:
        job = small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:OnTheObject", "arguments": {"of": "object"}}})
        trained(job, tmp_path / "own")
        trained(small_runs.prepared(**TASKS["focal"]), tmp_path / "plain")
        assert small_runs.losses(tmp_path / "own") == pytest.approx(small_runs.losses(tmp_path / "plain"), rel=1e-4)
        with pytest.raises(PlanError, match="task: its weight failed on training sample 0: TypeError: 'float' object is not callable"):
            small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:OnTheObject", "arguments": {"of": "number"}}})

    def test_a_term_of_outputs_that_cannot_be_halved_is_refused_by_the_loss(self) -> None:
        """The model is called on each sample twice."""
        own = {"task": {"entry_point": f"{OWN}:Balanced", "arguments": {"share": 1e-2, "kind": "twice over"}}}
        with pytest.raises(PlanError, match="task: its loss is no sum over samples"):
            small_runs.prepared(**{**TASKS["focal"], **own})

    @pytest.mark.parametrize(("kind", "share"), [("mean", 0.0), ("dropout", 1e-3)])
    def test_a_sum_and_draws_of_its_own_are_not(self, kind: str, share: float) -> None:
        small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:Balanced", "arguments": {"share": share, "kind": kind}}})

    @pytest.mark.parametrize(
        ("dataset", "words"),
        [
            ({"weightless": "training"}, "task: the 30 samples of step 1 weigh 0 together, and a mean divides by that. Give some of them a weight."),
            ({"one_by_one": True, "beyond": 50}, r"documents: training sample 50 has 9 in 0, which is not in 0 \.\.\. 8"),
        ],
    )
    def test_what_the_first_step_cannot_train_on_is_known_before_anything_is_written(self, dataset: dict[str, Any], words: str) -> None:
        seed = next(seed for seed in range(20) if 50 in sample_order(seed, 0, 60)[:30])
        with pytest.raises(DataError, match=words):
            small_runs.prepared(**{**TASKS["documents"], "dataset": {"entry_point": f"{OWN}:documents", "arguments": dataset}, "seed": seed})

    @pytest.mark.parametrize("one_by_one", [False, True])
    def test_a_part_to_evaluate_of_which_nothing_counts_is_refused_before_training(self, one_by_one: bool) -> None:
        dataset = {"entry_point": f"{OWN}:documents", "arguments": {"weightless": "test", "one_by_one": one_by_one}}
        with pytest.raises(PlanError, match=r"dataset: its 20 test samples weigh 0 together, and the mean loss divides by that\. Give"):
            small_runs.prepared(**{**TASKS["documents"], "dataset": dataset})

    @pytest.mark.parametrize(("name", "weight"), [("Endless", "inf"), ("Sinking", "-1")])
    def test_a_weight_that_no_mean_can_be_taken_with_is_refused(self, name: str, weight: str) -> None:
        with pytest.raises(DataError, match=rf"task: \d+ samples of step 1 weigh {weight} together, by its weight. Weights must be finite"):
            small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:{name}"}})

    def test_an_infinite_weight_in_evaluation_gives_no_score(self, tmp_path: Path) -> None:
        job = small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:EndlessInEvaluation"}})
        with pytest.raises(PlanError, match="the samples of an evaluation weigh inf together"):
            trained(job, tmp_path)

    def test_metrics_without_the_loss_have_it_all_the_same(self, tmp_path: Path) -> None:
        document = {**TASKS["focal"], "stop": {"epochs": 1}}
        scores = []
        for number, name in enumerate(("Focal", "WithoutLoss")):
            trained(small_runs.prepared(**{**document, "task": {"entry_point": f"{OWN}:{name}"}}), tmp_path / str(number))
            scores.append([record.scores for record in evaluations(read_records(tmp_path / str(number)))])
        assert scores[0] == scores[1]

    def test_a_metric_that_is_not_defined_is_no_divergence(self, tmp_path: Path) -> None:
        job = small_runs.prepared(**{**TASKS["focal"], "task": {"entry_point": f"{OWN}:Undefined"}})
        with pytest.raises(CodeError, match="task: its metric accuracy is no number after step 4, and the loss is one"):
            trained(job, tmp_path)

    def test_one_that_is_infinite_where_the_loss_is_finite_is_told_of_both(self, tmp_path: Path) -> None:
        task = {"entry_point": f"{OWN}:Unbounded"}
        summary = trained(small_runs.prepared(**{**TASKS["focal"], "task": task, "stop": {"epochs": 1}}), tmp_path)
        assert summary.outcome is Outcome.DIVERGED
        notices = [record.text for record in read_records(tmp_path) if isinstance(record, NoticeRecord)]
        assert re.search(r"the test margin is inf after step 4\..* Or let your metric be finite where the loss is \(\d\.\d+\)", notices[-1])

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ({"reduction": {"local_steps": 2}}, "^reduction.local_steps: each worker would compare its own samples alone"),
            (
                {"learning_rate": {"base": 0.1, "base_global_batch_size": 10, "scaling": "adascale"}},
                "^learning_rate.scaling: adascale measures the variance between parts",
            ),
        ],
    )
    def test_what_takes_a_loss_apart_that_couples_samples(self, parts: dict[str, Any], words: str) -> None:
        """With the spec, before workers start; of a person's own task with the plan."""
        with pytest.raises(SpecError, match=words):
            small_runs.prepared(**{**TASKS["contrastive"], **parts})
        with pytest.raises(PlanError, match=words):
            small_runs.prepared(**{**TASKS["contrastive"], "task": {"entry_point": f"{OWN}:Coupled"}, **parts})


@pytest.mark.parametrize("epoch", [-1, 0, 3])
def test_what_is_evaluated_is_read_from_the_middle_of_any_epoch(epoch: int) -> None:
    """Of a set that is read one by one as of one that is held whole."""
    model = {"name": "transformer", "arguments": {"width": 8, "depth": 1, "num_heads": 2}}
    read = []
    for one_by_one in (False, True):
        dataset = {"entry_point": "own_tasks:documents", "arguments": {"one_by_one": one_by_one}}
        job = prepared(task={"name": "language-modelling"}, dataset=dataset, model=model, batch={"global_batch_size": 20})
        read.append(evaluation_batches(job, job.dataset.test).read(Slice(epoch, 5, 12)))
    assert all(torch.equal(held, listed) for held, listed in zip(*read, strict=True))


@pytest.mark.parametrize("kind", ["dict", "tuple", "object"])
def test_an_own_task_sees_wide_numbers_wherever_they_stand(kind: str, tmp_path: Path) -> None:
    """A sum of a batch's losses in bfloat16 has three digits."""
    own_tasks.Seen.types.clear()
    model = {"entry_point": f"{OWN}:InADict", "arguments": {"kind": kind}}
    own = {"task": {"entry_point": f"{OWN}:Seen"}, "model": model, "precision": "bfloat16", "stop": {"steps": 1}}
    trained(small_runs.prepared(**{**TASKS["focal"], **own}), tmp_path)
    assert own_tasks.Seen.types == {torch.float32}
