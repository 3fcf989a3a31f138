"""The plan in words and numbers: what a person reads adds up."""

import json
import re
from typing import Any

import pytest
import torch
from small_runs import document
from torch import nn

from largebatch.jobs.plan.describe import learning_rate_curve, mebibytes, plan_facts, plan_lines, sparkline
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset, Tensors
from largebatch.jobs.spec.read import build_spec

MODEL = nn.Linear(9, 10)  # 100 parameters


def data_of(is_in_memory: bool = True, notices: tuple[str, ...] = ()) -> Dataset:
    """250 test samples, and 1 MiB of training samples that is held whole."""
    held = Tensors(torch.zeros(1, 2**20, dtype=torch.uint8))
    return Dataset("planned", held, Tensors(torch.zeros(250, 0)) if is_in_memory else range(250), 10, (9,), notices=notices)


def plan_of(facts: Facts | None = None, **parts: Any) -> TrainPlan:
    usual = {
        "batch": {"global_batch_size": 300},
        "optimizer": {"name": "lamb"},
        "learning_rate": {"base": 0.4, "warmup_epochs": 1, "decay": "cosine"},
        "stop": {"epochs": 4},
    }
    return make_plan(build_spec(document(**{**usual, **parts})), facts or Facts(1000, has_batch_norm=False, micro_batch_size=128))


def words(plan: TrainPlan, is_in_memory: bool = True) -> dict[str, str]:
    return dict(plan_lines(plan, MODEL, data_of(is_in_memory), activation_bytes_per_sample=1000))


class TestWords:
    def test_a_step_in_uneven_pieces(self) -> None:
        assert words(plan_of())["global batch"].startswith("300 samples per step = 2 x 128 + 44 ")

    def test_a_step_in_even_pieces(self) -> None:
        plan = plan_of(Facts(1000, has_batch_norm=False, micro_batch_size=100))
        assert words(plan)["global batch"].startswith("300 samples per step = 3 x 100 ")

    def test_the_target(self) -> None:
        target = {"metric": "loss", "value": 0.25}
        assert "target" not in words(plan_of())
        assert words(plan_of(stop={"epochs": 4, "target": target}))["target"] == "test loss 0.25; the run ends there"
        goes_on = words(plan_of(stop={"epochs": 4, "target_accuracy": 0.9, "at_target": False}))["target"]
        assert goes_on == "test accuracy 0.9; the run goes on behind it"

    @pytest.mark.parametrize(
        ("batch", "epoch"),
        [
            ({"global_batch_size": 300}, "3 steps of 300 and one of 100, divided by its own 100"),
            ({"global_batch_size": 300, "last": "drop"}, "3 steps; the last 100 samples of each epoch's order are dropped"),
            ({"global_batch_size": 250}, "4 steps, no remainder"),
        ],
    )
    def test_an_epoch(self, batch: dict[str, Any], epoch: str) -> None:
        assert words(plan_of(batch=batch))["epoch"] == epoch

    def test_length(self) -> None:
        assert words(plan_of())["length"] == "16 steps, 4000 samples, 4 epochs"
        assert words(plan_of(stop={"steps": 5}))["length"] == "5 steps, 1300 samples, 1.3 epochs"
        assert words(plan_of(batch={"global_batch_size": 300, "last": "drop"}))["length"] == "12 steps, 3600 samples, 4 epochs"

    @pytest.mark.parametrize(
        ("parts", "span", "sentence"),
        [
            ({}, None, "measured at every step"),
            ({"batch": {"global_batch_size": 100}}, None, "measured every 30 steps"),
            ({"gradient": {"noise_every_steps": 7}}, None, "measured every 7 steps"),
            (
                {"gradient": {"noise_every_steps": 7, "noise_from": "norms"}},
                None,
                "measured every 7 steps, of the layer norms' and RMS norms' gradients alone",
            ),
            (
                {"gradient": {"noise_every_steps": 7, "noise_norm": "optimizer"}, "optimizer": {"name": "lion"}},
                None,
                "measured every 7 steps; besides in lion's own norm, by the l1 norm of the whole gradient",
            ),
            (
                {"gradient": {"noise_norm": "optimizer"}, "optimizer": {"name": "muon"}},
                None,
                "measured at every step; besides in muon's own norm, by the nuclear norms of the matrices that it updates, alone",
            ),
            ({"gradient": {"noise_every_steps": 0}}, None, "not measured: gradient.noise_every_steps is 0"),
            ({"batch": {"global_batch_size": 1}}, None, "not measured: .* is a single sample"),
            ({"batch": {"global_batch_size": 50}}, 50, "not measured: .* is a single batch-norm group of 50"),
        ],
    )
    def test_the_noise_scale(self, parts: dict[str, Any], span: int | None, sentence: str) -> None:
        norm = {"batch_norm": {"span": span}} if span else {}
        plan = plan_of(Facts(1000, has_batch_norm=span is not None, micro_batch_size=128), **parts, **norm)
        assert re.fullmatch(sentence, words(plan)["noise scale"])

    def test_batch_norm(self) -> None:
        assert words(plan_of())["batch-norm"] == "none in this model"
        plan = plan_of(Facts(1000, has_batch_norm=True, micro_batch_size=150), batch_norm={"span": 50})
        assert words(plan)["batch-norm"] == "statistics over 50 samples, whatever the micro-batch"

    def test_what_is_not_read_is_said(self) -> None:
        """Options that another machine, model or data set would read; one recipe serves them all."""
        one = Facts(1000, has_batch_norm=False, micro_batch_size=128)
        assert words(plan_of(batch_norm={"span": 50}))["batch-norm"] == "none in this model: batch_norm.span is not read"
        rate = {"base": 0.4, "base_global_batch_size": 30}
        assert "so base_global_batch_size is not read" in words(plan_of(learning_rate=rate))["learning rate"]
        dataset = {"name": "digits", "num_workers": 3}
        assert words(plan_of())["data"] == "1,000 training samples, 250 test samples, 10 classes, held in memory"
        assert (
            words(plan_of(dataset=dataset))["data"]
            == "1,000 training samples, 250 test samples, 10 classes, held in memory: dataset.num_workers is not read"
        )
        assert (
            words(plan_of(dataset=dataset), is_in_memory=False)["data"]
            == "1,000 training samples, 250 test samples, 10 classes, read one by one by 3 processes"
        )
        reduction = {"compression": "powersgd", "powersgd_rank": 2, "local_steps": 4, "local_from_epoch": 1.5}
        assert "reduction" not in words(plan_of())
        assert words(plan_of(one, reduction=reduction))["reduction"] == "one process alone: nothing of reduction is read"
        said = words(plan_of(one._replace(world_size=2), reduction=reduction))["reduction"]
        assert said == "factors of rank 2; from epoch 1.5 on 4 steps alone between averages"

    def test_notices_follow_the_data(self) -> None:
        notices = ("Data: 1 of 250 test samples with NaN or infinity; the first is sample 3.",)
        lines = plan_lines(plan_of(), MODEL, data_of(notices=notices), 1000)
        assert lines[1] == ("", "1 of 250 test samples with NaN or infinity; the first is sample 3.")

    def test_a_growing_batch(self) -> None:
        plan = plan_of(batch={"global_batch_size": 100, "schedule": {"growth": [{"epoch": 1, "factor": 2}, {"epoch": 3, "factor": 4}]}})
        assert words(plan)["batch schedule"].startswith("100 -> 200 -> 400")
        assert "batch schedule" not in words(plan_of())

    def test_two_phases(self) -> None:
        schedule = {"short_sequences": {"length": 128, "epochs": 1.5}, "growth": [{"epoch": 1.5, "factor": 2}]}
        rate = {"base": 0.4, "base_global_batch_size": 50, "scaling": "linear", "decay": "cosine", "restart": {"epoch": 1.5, "base": 0.1}}
        plan = plan_of(batch={"global_batch_size": 100, "schedule": schedule}, learning_rate=rate, stop={"steps": 25})
        lines = plan_lines(plan, MODEL, data_of(), 1000)
        assert ("sequences", "each sample is cut into sequences of 128 tokens until epoch 1.5; whole from there on") in lines
        again = lines[[name for name, _ in lines].index("learning rate") + 1]
        assert again == ("", "again from epoch 1.5: peak 0.4 (linear: 0.1 times batch 200 / 50 = 4); warm-up 0 epochs; then cosine")
        assert words(plan)["batch schedule"].startswith("100 -> 200; ")  # also where the end is told in steps
        assert "sequences" not in words(plan_of())

    def test_memory_adds_up(self) -> None:
        # 400 bytes of weights, twice that of gradients (a step in pieces keeps a sum), two moments; 128 samples of 1000 bytes; 1 MiB of data.
        total = 400 + 2 * 400 + 2 * 400 + 128 * 1000 + 2**20
        line = words(plan_of())["memory"]
        assert line.startswith(f"about {mebibytes(total)}: weights ")
        assert "data set 1.0 MiB" in line
        assert line.endswith("(100 parameters)")
        assert "average" not in line

    def test_one_line_each(self) -> None:
        assert all("\n" not in line for line in words(plan_of()).values())


def test_numbers_are_plain_data() -> None:
    facts = plan_facts(plan_of())
    assert json.loads(json.dumps(facts, allow_nan=False))["micro_batches_of_the_first_step"] == [128, 128, 44]
    assert (facts["total_steps"], facts["total_samples"], facts["gradient_accumulation_steps"]) == (16, 4000.0, 3)


def test_the_curve_goes_up_and_down_from_end_to_end() -> None:
    curve = learning_rate_curve(plan_of())
    epochs, rates = zip(*curve, strict=True)
    assert (epochs[0], epochs[-1]) == (0.0, 4.0)
    assert max(rates) == pytest.approx(0.4, rel=0.01)  # one of sixty points is within 1/30 epoch of the peak
    assert rates[-1] < 0.001
    top = rates.index(max(rates))
    assert list(rates[:top]) == sorted(rates[:top])
    assert list(rates[top:]) == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(("values", "line"), [([0.0, 0.5, 1.0], "▁▄█"), ([0.0, 0.0], "▁▁"), ([3.0, 3.0], "██")])
def test_sparkline(values: list[float], line: str) -> None:
    assert sparkline(values) == line


@pytest.mark.parametrize(("num_bytes", "text"), [(0, "0.0 MiB"), (2**20, "1.0 MiB"), (2**30 - 1, "1024.0 MiB"), (3 * 2**29, "1.5 GiB")])
def test_mebibytes(num_bytes: int, text: str) -> None:
    assert mebibytes(num_bytes) == text
