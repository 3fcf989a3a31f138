"""Runs that another program logged to MLflow: a planted experiment, read by names that a file says, or a person at a terminal is asked for once."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from command_line import largebatch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from small_runs import ROOT

from largebatch.jobs.errors import InputError, SpecError
from largebatch.service.cli.answer.mlflow_names import asking_once
from largebatch.tuning.results.collect import Collected, collect_experiment
from largebatch.tuning.results.foreign_runs import ForeignRuns, MlflowNames

TRAIN_SAMPLES = 1024
NAMES = {
    "batch": "bs", "learning_rate": "lr", "metric": "val_acc", "better": "higher", "counts": "epochs from 0", "train_samples": TRAIN_SAMPLES,
    "optimizer": "opt", "seed": "seed", "ignore": ["out"],
}  # fmt: skip
EPOCHS_TO_TARGET, SECONDS_PER_EPOCH = {64: 2, 256: 3, 1024: 8}, {64: 4.0, 256: 1.0, 1024: 0.5}
"""Planted: the batch of 256 is soonest, with 3 s; 64 is cheapest, with 2 epochs."""
BEGAN_MS = 1_700_000_000_000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow's, when it is imported


def log(client: MlflowClient, experiment: str, params: dict[str, Any], accuracies: list[float], seconds: float, status: str = "FINISHED") -> None:
    """A run whose epochs take so long, as any program logs it."""
    run = client.create_run(experiment, start_time=BEGAN_MS, run_name="-".join(str(value) for value in params.values()))
    metrics = [Metric("val_acc", accuracy, BEGAN_MS + round(1000 * seconds * (epoch + 1)), epoch) for epoch, accuracy in enumerate(accuracies)]
    client.log_batch(run.info.run_id, metrics, [Param(name, str(value)) for name, value in params.items()])
    client.set_terminated(run.info.run_id, status)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the experiment `nets`: nine runs that can be read, and three that cannot. Making a store's tables takes MLflow seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("nets")
    for batch, epochs in EPOCHS_TO_TARGET.items():
        for seed in range(3):
            params = {"bs": batch, "lr": 0.1, "opt": "adam", "seed": seed, "out": f"/tmp/{batch}/{seed}", "depth": 3}
            log(client, experiment, params, [*([0.5] * (epochs - 1)), 0.95, 0.96], SECONDS_PER_EPOCH[batch])
    log(client, experiment, {"bs": 64, "lr": 0.1, "seed": 9}, [0.2], 1.0, status="FAILED")
    log(client, experiment, {"lr": 0.1}, [0.2], 1.0)
    log(client, experiment, {"bs": 64, "lr": "auto"}, [0.2], 1.0)
    return uri


@pytest.fixture
def mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(NAMES))
    return tmp_path / "names.yaml"


def ask(store: str, *words: object) -> str:
    return largebatch(*words, "--mlflow-uri", store).stdout


def test_what_was_planted_is_answered(store: str, mapping: Path) -> None:
    answer = json.loads(ask(store, "advise", "mlflow:nets", "--mapping", mapping, "--target", 0.9, "--json"))
    told = {advice["question"]: advice["choice"] for advice in answer["advice"]}
    assert (told["soonest"]["global_batch_size"], told["soonest"]["seconds"]) == (256, pytest.approx(3.0))
    assert (told["cheapest"]["global_batch_size"], told["cheapest"]["samples"]) == (64, 2 * TRAIN_SAMPLES)
    assert {row["num_seeds"] for row in answer["cost_frontier"]} == {3}
    words = " ".join(answer["words"])
    assert "Left out: 1 run that did not come to their end." in words
    assert "Left out: 1 run that have no parameter bs." in words
    assert "could not convert string to float: 'auto'" in words
    assert "settings" not in words, "they differ in nothing that counts"


@pytest.mark.usefixtures("blank_pictures")
def test_they_are_compared_and_reported(store: str, mapping: Path, tmp_path: Path) -> None:
    mapping.rename("mlflow-nets.yaml")  # where it is looked for
    out = ask(store, "compare", "mlflow:nets", "--figure", tmp_path / "figure.html")
    assert out.count("completed") == 9
    assert (tmp_path / "figure.html").is_file()
    ask(store, "report", "mlflow:nets", "--target", 0.9, "--output", tmp_path / "report")
    assert "adam" in (tmp_path / "report" / "report.html").read_text()


def test_nobody_has_said_what_names_mean(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as refusal:
        ask(store, "advise", "mlflow:nets")
    assert str(refusal.value) == (
        "--mapping: mlflow-nets.yaml is not there, and nobody has said what the parameters of nets's runs mean (bs, depth, lr, opt, out, seed). "
        "Ask once in a terminal, which writes it."
    )
    Path("mlflow-nets.yaml").write_text(yaml.safe_dump({**NAMES, "batchsize": "bs"}))
    with pytest.raises(InputError, match="batchsize: is not a known key"):
        ask(store, "advise", "mlflow:nets")
    with pytest.raises(InputError, match=r"has no experiment 'other'. It has: .*nets"):
        ask(store, "advise", "mlflow:other")


def test_the_file_that_docs_show_is_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(# names.yaml\n.*?)```", (ROOT / "docs" / "other-loops.md").read_text(), re.S)
    names = MlflowNames.model_validate(yaml.safe_load(shown))
    assert names.model_fields_set == set(MlflowNames.model_fields) - {"dataset"}


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


def test_a_person_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    runs = ForeignRuns("my nets", ["batch_size", "lr", "out", "seed"], ["train_loss", "val_loss"], has_ours=False)
    typed = ["", "batch", "", "lr", "", "", "steps", "1024", *[""] * 6]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(typed) + "\n"))
    names = asking_once(None)(runs)
    assert names == MlflowNames(
        batch="batch_size", learning_rate="lr", metric="val_loss", better="lower", counts="steps", train_samples=1024, seed="seed"
    )
    out, err = capsys.readouterr()
    assert not out.strip(), "standard output is the answer's"
    assert "'batch' is none of batch_size, lr, out, seed." in err
    assert "largebatch advise mlflow:my nets" in Path("mlflow-my-nets.yaml").read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert asking_once(None)(runs) == names


def test_where_ours_are_there_others_are_left_out_unless_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = ForeignRuns("nets", ["bs"], ["val_acc"], has_ours=True)
    assert asking_once(None)(runs) is None
    with pytest.raises(SpecError, match=r"names\.yaml is not there"):
        asking_once(Path("names.yaml"))(runs)


Points = list[tuple[float, int, float]]
"""Value, step, seconds since the run began."""
USUAL: Points = [(0.5, 10, 10.0), (0.9, 20, 20.0)]
READ_AS: dict[str, Any] = {"batch": "bs", "learning_rate": "lr", "metric": "val", "better": "higher", "counts": "steps", "train_samples": 100}


def read_back(uri: str, params: dict[str, str], metrics: dict[str, Points], **names: Any) -> Collected:
    """What is read of an experiment with one run. Args: uri: of a store, in which the experiment is made."""
    client = MlflowClient(tracking_uri=uri)
    experiment = f"nets-{uuid4().hex}"
    run_id = client.create_run(client.create_experiment(experiment), start_time=BEGAN_MS).info.run_id
    logged = [Metric(name, value, BEGAN_MS + round(1000 * seconds), step) for name, points in metrics.items() for value, step, seconds in points]
    client.log_batch(run_id, logged, [Param(name, value) for name, value in {"bs": "32", "lr": "1e-3", **params}.items()])
    client.set_terminated(run_id)
    return collect_experiment(uri, experiment, lambda runs: MlflowNames(**{**READ_AS, **names}))


@pytest.mark.parametrize(
    ("params", "metrics", "names", "why"),
    [
        ({}, {"val": [(0.5, 0, 10.0), (0.9, 0, 20.0)]}, {}, "log val several times at step 0 and at no other (log_metric has a step)"),
        ({}, {"val": [(0.9, 0, 20.0)]}, {}, "log val before the first step alone"),
        ({}, {"val": USUAL, "s": [(5.0, 10, 5.0)]}, {"seconds": "s"}, "log val at steps such as 20, where they log no s"),
        ({}, {"val": USUAL, "s": [(5.0, 10, 5.0), (math.nan, 20, 9.0)]}, {"seconds": "s"}, "log val at steps such as 20, where they log no s"),
        ({"bs": "inf"}, {"val": USUAL}, {}, "say what is no number: inf is not whole"),
        ({"bs": "64.5"}, {"val": USUAL}, {}, "say what is no number: 64.5 is not whole"),
        ({"lr": "nan"}, {"val": USUAL}, {}, "have a lr of nan"),
        ({"lr": "0"}, {"val": USUAL}, {}, "have a lr of 0"),
        ({"n": "0"}, {"val": USUAL}, {"train_samples": "n"}, "have a n below 1"),
    ],
)
def test_what_a_run_does_not_say_is_not_guessed(params: dict[str, str], metrics: dict[str, Points], names: Any, why: str, store: str) -> None:
    told = read_back(store, params, metrics, **names)
    assert (told.runs, told.missing) == ([], [f"Left out: 1 run that {why}."])


def test_a_score_that_mlflow_keeps_as_the_largest_float_diverged(store: str) -> None:
    (run,) = read_back(store, {"bs": "64.0", "seed": "None"}, {"val": [(0.5, 10, 10.0), (math.inf, 20, 20.0), (0.9, 30, 30.0)]}, seed="seed").runs
    assert (run.summary.outcome, run.summary.score, run.summary.samples_seen, run.seed, run.learning_rate) == ("diverged", 0.5, 640, 0, 0.001)


def test_seconds_are_those_of_the_step_and_none_before_the_first(store: str) -> None:
    points = {"val": [(0.1, 0, 1.0), (0.4, 10, 10.0), (0.5, 10, 12.0), (0.9, 20, 20.0)], "s": [(3.0, 20, 20.0), (2.0, 10, 12.0), (1.0, 10, 10.0)]}
    (run,) = read_back(store, {"seed": "18446744073709551615"}, points, seconds="s", seed="seed").runs
    assert [(at.step, at.samples, at.training_seconds, at.score) for at in run.evaluations] == [
        (0, 0, 0.0, 0.1),
        (10, 320, 2.0, 0.5),
        (20, 640, 3.0, 0.9),
    ]
    assert run.seed == 2**64 - 1
