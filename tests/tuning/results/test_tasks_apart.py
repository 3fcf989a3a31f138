"""Runs of different tasks in one folder: what their scores are of tells them apart, also where their metric has one name."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_folder

from largebatch.jobs.run import run_folder
from largebatch.jobs.tasks.registry import scores_are_of
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import RunResult


def run_of(folder: Path, batch: int, task: dict[str, Any], metric: str, better: str = "lower") -> RunResult:
    """A run that somebody else's task judged."""
    run_dir = made_folder(folder, batch)
    spec, summary = (json.loads((run_dir / name).read_text()) for name in (run_folder.SPEC, run_folder.SUMMARY))
    stop = {"epochs": 1.0, "target": {"metric": metric, "value": 0.9}}
    (run_dir / run_folder.SPEC).write_text(json.dumps({**spec, "task": task, "stop": stop}))
    (run_dir / run_folder.SUMMARY).write_text(json.dumps({**summary, "headline": {"name": metric, "better": better}}))
    return collect([run_dir])[0]


@pytest.mark.parametrize(
    ("one", "other", "metric"),
    [
        ({"name": "classification"}, {"name": "multi-label"}, "loss"),
        ({"name": "regression"}, {"name": "regression", "loss": "huber"}, "loss"),
        ({"name": "regression", "loss": "huber"}, {"name": "regression", "loss": "huber", "delta": 2.0}, "loss"),
        ({"name": "language-modelling"}, {"name": "masked-language-modelling"}, "perplexity"),
        ({"name": "masked-language-modelling"}, {"name": "masked-language-modelling", "masked_fraction": 0.4}, "perplexity"),
        ({"entry_point": "a:b"}, {"entry_point": "a:c"}, "f1"),
    ],
)
def test_scores_of_different_things_are_not_raced(tmp_path: Path, one: dict[str, Any], other: dict[str, Any], metric: str) -> None:
    """The easier of two losses was the soonest."""
    runs = [*(run_of(tmp_path / "one", batch, one, metric) for batch in (32, 64, 128)), run_of(tmp_path / "other", 256, other, metric)]
    found = find(runs, 0.6)
    assert [choice.global_batch_size for choice in found.choices] == [32, 64, 128]
    ((left_out, number),) = found.other_settings.items()
    assert number == 1
    assert str(left_out) != str(found.setting)


@pytest.mark.parametrize(
    ("one", "other", "metric"),
    [
        ({"name": "regression"}, {"name": "regression", "loss": "huber"}, "rmse"),
        ({"name": "contrastive"}, {"name": "contrastive", "temperature": 0.2}, "recall_at_1"),
        ({"entry_point": "a:b", "arguments": {"weight": 1}}, {"entry_point": "a:b", "arguments": {"weight": 2}}, "f1"),
        ({"name": "masked-language-modelling"}, {"name": "masked-language-modelling", "masked_fraction": 0.15}, "loss"),
    ],
)
def test_what_is_minimised_may_differ_where_scores_do_not(tmp_path: Path, one: dict[str, Any], other: dict[str, Any], metric: str) -> None:
    runs = [run_of(tmp_path / "one", 32, one, metric), run_of(tmp_path / "other", 64, other, metric)]
    assert len(find(runs, 0.6).runs) == 2


def test_scores_are_told_with_their_task() -> None:
    huber = {"task.name": "regression", "task.loss": "huber", "task.delta": "2.0", "task.quantile": "0.5"}
    assert scores_are_of(huber, "loss") == "regression (delta 2.0, loss huber)"
    assert scores_are_of(huber, "r2") == "regression"
    assert [scores_are_of({}, metric) for metric in ("accuracy", "loss")] == ["", "classification"]
    assert scores_are_of({"recorded.trainer": "plain loop"}, "loss") == ""
