"""A stranger's model is checked before training: what cannot be exact is refused in one sentence, and nothing stays of the check."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import small_runs
import strangers
import torch
from small_runs import CPU, trained
from torch import nn
from torch.nn import functional

from largebatch.jobs.engine.model_check.check import check_model
from largebatch.jobs.errors import LargebatchError, PlanError, SpecError
from largebatch.jobs.job import prepare
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.samples.keyed_random import sample_order

DRAWS = "The model draws from torch's own generators"
ONE_PASS: dict[str, dict[str, Any]] = {"batch": {"global_batch_size": 50, "micro_batch_size": 50}, "gradient": {"noise_every_steps": 0}}


def prepared(model: str, arguments: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **parts: Any) -> Prepared:
    own = {
        "dataset": {"entry_point": "strangers:load", "arguments": data or {}},
        "model": {"entry_point": f"strangers:{model}", "arguments": arguments or {}},
    }
    return small_runs.prepared(**{**own, "batch": {"global_batch_size": 50}, "stop": {"epochs": 1}, **parts})


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        *(("evaluating", {"kind": kind}, sentence) for kind, (_, sentence) in strangers.EVALUATION.items()),
        *(("training", {"kind": kind}, sentence) for kind, (_, sentence) in strangers.TRAINING.items()),
        ("counting", {}, r"it keeps a number from pass to pass, calls \(\d+ before a pass, \d+ after it\)"),
        ("growing", {}, r"its buffer last takes another shape with the batch \(\(1, 8\) before a pass of 8 samples, \(8, 8\) after it\)"),
        ("time_first", {}, "depends on which others pass with it"),
        ("zero_head", {}, "a sample's gradient in training depends"),
        ("clipped_gradient", {}, "a sample's gradient in training depends"),
        ("own_statistics", {}, "mean keeps something of the samples"),
        ("extra", {"kind": "object"}, "_extra_state in its state is a object"),
        ("extra", {"kind": "refused"}, "cannot take its own state_dict over"),
        ("Unswitchable", {}, r"cannot be switched to training mode: RuntimeError: use fit\(\) \(.*strangers\.py, line \d+\)\. Mend"),
        *(
            ("dropping", {"kind": kind}, r"1\.drop, a dropout, gets inputs whose dimension 0 is not the samples")
            for kind in ("time first", "time first, noise", "rows, time first", "rows that count", "sample by sample")
        ),
    ],
)
def test_what_cannot_be_trained_exactly_is_refused(model: str, arguments: dict[str, str], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        prepared(model, arguments)


@pytest.mark.parametrize(
    ("model", "kind"),
    [*(("good", kind) for kind in strangers.GOOD), *(("dropping", kind) for kind in ("samples", "samples, noise", "rows", "positions"))],
)
def test_what_is_exact_passes_and_what_torch_draws_is_said(model: str, kind: str) -> None:
    """Draws from torch's generators belong to the micro-batch: where a step is split, another split gives others, and nobody would know."""
    notices = prepared(model, {"kind": kind}).findings.notices
    assert [notice.partition(" in training")[0] for notice in notices] == [DRAWS] * ("noise" in kind or kind in {"functional dropout", "positions"})


def test_where_a_step_is_one_pass_there_is_no_split_to_speak_of() -> None:
    assert prepared("good", {"kind": "functional dropout"}, **ONE_PASS).findings.notices == []


@pytest.mark.parametrize("how", ["parallel", "compiled", "scripted"])
def test_wrappers_that_do_what_the_spec_does_are_refused(how: str) -> None:
    with pytest.raises(SpecError, match="Return the module"):
        prepared("wrapped", {"how": how})


@pytest.mark.parametrize(("model", "words"), [("softmaxed", "probabilities, not logits"), ("scaled", "other logits in evaluation than in training")])
def test_what_is_odd_but_exact_is_said(model: str, words: str) -> None:
    notices = prepared(model).findings.notices
    assert len(notices) == 1
    assert words in notices[0]


def test_only_a_number_of_samples_that_the_plan_reads_is_refused() -> None:
    """300 samples: 50 divides them, 299 leaves one; 90 test samples fit into one piece, 65 leave one."""
    prepared("squeezing")
    with pytest.raises(PlanError, match=r"gives \(3,\) for 1 sample of .* in training.*batch\.last=drop"):
        prepared("squeezing", batch={"global_batch_size": 299})
    prepared("squeezing", batch={"global_batch_size": 299, "last": "drop"}, data={"num_train": 310})
    with pytest.raises(PlanError, match=r"for 1 sample of .* in training"):
        prepared("squeezing", batch={"global_batch_size": 50, "micro_batch_size": 1})
    with pytest.raises(PlanError, match=r"for 1 sample of .* in evaluation"):
        prepared("squeezing", data={"num_test": 65})


def test_own_running_statistics_train_where_each_step_is_one_pass() -> None:
    assert prepared("own_statistics", **ONE_PASS).findings.by_samples == ["mean"]


def test_weights_that_the_forward_pass_changes_train_in_one_process_alone(tmp_path: Path) -> None:
    job = prepared("renormed")
    assert job.findings.by_forward == ["layer.weight"]
    assert trained(job, tmp_path / "run").score is not None
    with pytest.raises(PlanError, match=r"its forward pass changes layer\.weight"):
        prepare(job.spec, CPU, Path("nowhere"), world_size=2)


@pytest.mark.parametrize(
    ("kind", "weight"), [("shrinking", r"layer\.weight"), ("follower", r"copy\.0\.weight"), ("trainable follower", r"copy\.0\.weight")]
)
def test_weights_that_every_pass_moves_on_train_where_each_step_is_one_pass(kind: str, weight: str, tmp_path: Path) -> None:
    """A follower, too, which is no other than what it follows before the first update."""
    for parts in ({}, {**ONE_PASS, "batch": {"global_batch_size": 50, "micro_batch_size": 25}}, {**ONE_PASS, "gradient": {"noise_every_steps": 2}}):
        with pytest.raises(PlanError, match=rf"its forward pass changes {weight}, further with each pass.*micro_batch_size=50"):
            prepared("moving", {"kind": kind}, **parts)
    job = prepared("moving", {"kind": kind}, **ONE_PASS)
    start = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    expected = _moved_by_torch(kind, start, job)
    trained(job, tmp_path / "run")
    for name, tensor in expected.items():
        torch.testing.assert_close(job.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def _moved_by_torch(kind: str, start: dict[str, torch.Tensor], job: Prepared) -> dict[str, torch.Tensor]:
    """An epoch of plain torch."""
    model = strangers.moving(3, kind)
    model.load_state_dict(start)
    order = sample_order(job.spec.seed, 0, job.plan.num_train_samples)
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=0.0, momentum=0.9)
    samples = 0
    for indices in order.split(50):
        optimizer.param_groups[0]["lr"] = job.plan.learning_rate(samples + len(indices) / 2)
        samples += len(indices)
        optimizer.zero_grad()
        functional.cross_entropy(model(job.dataset.train.inputs[indices]), job.dataset.train.labels[indices]).backward()
        optimizer.step()
    return model.state_dict()


def test_weights_that_evaluation_moves_on_are_refused() -> None:
    with pytest.raises(PlanError, match=r"moves copy\.0\.weight in evaluation, too"):
        prepared("moving", {"kind": "in evaluation"}, **ONE_PASS)


@pytest.mark.parametrize(("kind", "setting"), [("momentum", "momentum"), ("eps", "eps"), ("mode", "training"), ("mode between runs", "training")])
def test_a_norm_whose_settings_the_forward_pass_changes_is_refused(kind: str, setting: str, tmp_path: Path) -> None:
    """In the trial, or in the step in which it comes to it; whatever the micro-batch, for a resume would not know of it."""
    at_once = 4 if kind == "mode" else 0
    with pytest.raises(PlanError, match=rf"the forward pass changes norm\.{setting} from"):
        prepared("changing_norm", {"kind": kind, "at": at_once})
    if kind == "mode between runs":  # which only the trial sees
        return
    job = prepared("changing_norm", {"kind": kind, "at": 1000}, batch={"global_batch_size": 50, "micro_batch_size": 10}, batch_norm={"span": 10})
    job.model.passes = 988  # type: ignore[assignment]  # twelve passes from there
    with pytest.raises(PlanError, match=rf"the forward pass changes norm\.{setting} from"):
        trained(job, tmp_path / "run")


@pytest.mark.parametrize("kind", ["by hand", "in evaluation mode"])
def test_running_statistics_that_training_reads_need_steps_of_one_pass(kind: str) -> None:
    with pytest.raises(PlanError, match=r"norm's running statistics.*micro_batch_size=50"):
        prepared("reading_statistics", {"kind": kind}, batch={"global_batch_size": 50, "micro_batch_size": 10}, batch_norm={"span": 10})
    prepared("reading_statistics", {"kind": kind}, batch={"global_batch_size": 50, "micro_batch_size": 50}, batch_norm={"span": "global"})
    assert not prepared("reading_statistics", {"kind": "not at all"}, batch={"global_batch_size": 50}, batch_norm={"span": 10}).findings.by_samples


def test_a_norm_that_the_forward_pass_freezes_each_time_is_frozen(tmp_path: Path) -> None:
    job = prepared("changing_norm", {"kind": "frozen"})
    trained(job, tmp_path / "run")
    assert int(job.model.state_dict()["norm.num_batches_tracked"]) == 0


def test_reentrant_checkpointing_warns_of_no_gradient_that_nobody_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared("checkpointed", batch={"global_batch_size": 50, "micro_batch_size": 10}, batch_norm={"span": 10})


def test_a_table_that_is_clipped_trains_in_any_micro_batches() -> None:
    """Each row once, whichever pass of a step reads it first."""
    findings = prepared("clipped_table", batch={"global_batch_size": 50, "micro_batch_size": 10}).findings
    assert (findings.by_forward, findings.by_passes) == (["table.weight"], [])


def test_a_check_leaves_everything_as_it_was() -> None:
    job = prepared("renormed")
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_model(job.spec, model, job.task, job.dataset, CPU)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]
    assert all(param.grad is None for param in model.parameters())


@pytest.mark.parametrize("micro_batch_size", [300, 70])
def test_what_every_pass_moves_moves_once_a_step(micro_batch_size: int, tmp_path: Path) -> None:
    """Spectral norm: one power iteration for each step, as in plain torch; k micro-batches would make k of them."""
    batch = {"global_batch_size": "full", "micro_batch_size": micro_batch_size}
    job = prepared("spectral", batch=batch, stop={"steps": 6}, learning_rate={"base": 0.5}, gradient={"noise_every_steps": 0})
    assert len(job.findings.once_a_step) == 2
    reference = strangers.spectral(3)
    reference.load_state_dict(job.model.state_dict())
    inputs, labels = job.dataset.train.inputs, job.dataset.train.labels
    trained(job, tmp_path / "run")
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9)
    for _ in range(6):
        optimizer.zero_grad()
        functional.cross_entropy(reference(inputs), labels).backward()
        optimizer.step()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(job.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("new", r"its parameter other\.weight asks for a gradient only since training began"),
        ("unfrozen", r"its parameter spare\.weight asks for a gradient only since training began"),
        ("replaced", "1 of the 2 parameters that the optimizer updates are no longer in the model"),
    ],
)
def test_what_begins_to_train_midway_is_found_at_the_next_evaluation(kind: str, sentence: str, tmp_path: Path) -> None:
    job = prepared("midway", {"kind": kind}, stop={"epochs": 3}, checkpoint={"best": False})
    with pytest.raises(PlanError, match=sentence):
        trained(job, tmp_path / "run")


@pytest.mark.parametrize("resumes", [False, True])
def test_passes_that_count_for_nothing_are_not_counted_by_the_model(resumes: bool, tmp_path: Path) -> None:
    """60 samples, 10 at once: six passes of training, whatever the trial, the warm-up and a resume pass through."""
    stop = {"steps": 1 if resumes else 6}
    parts = {"batch": {"global_batch_size": 10}, "data": {"num_train": 60}, "gradient": {"noise_every_steps": 0}}
    job = prepared("Counting", stop=stop, **parts)
    trained(job, tmp_path / "run")
    if resumes:
        job = prepared("Counting", stop={"steps": 6}, **parts)
        trained(job, tmp_path / "run", resumes=True)
    assert job.model.state_dict()["_extra_state"] == 6


def test_few_samples_are_tried_as_far_as_they_go() -> None:
    data = {"num_train": 3, "num_test": 1}
    assert prepared("good", {"kind": "plain"}, data=data, batch={"global_batch_size": 2}).plan.total_steps == 2
    with pytest.raises(LargebatchError, match="probabilities in evaluation"):
        prepared("evaluating", {"kind": "softmax"}, data=data, batch={"global_batch_size": 2})
