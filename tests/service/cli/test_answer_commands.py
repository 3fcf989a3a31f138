"""advise, report and scale: what is refused, what is said of runs, profiles and references of different kinds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from command_line import largebatch
from made_runs import made_folder, made_profile

from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.jobs.run import run_folder
from largebatch.jobs.tracking.folder_mirror import SWEEP_TAG
from largebatch.jobs.tracking.params import RUN_TAG


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for batch in (32, 128, 512):
        made_folder(tmp_path / "runs", batch)
    (tmp_path / "profile.json").write_text(made_profile().model_dump_json())
    (tmp_path / "gpu.json").write_text(made_profile().model_copy(update={"device": "H200"}).model_dump_json())
    (tmp_path / "lenet.json").write_text(made_profile().model_copy(update={"model_in_words": "lenet"}).model_dump_json())
    return tmp_path


def ask(*arguments: str | Path) -> str:
    return largebatch(*arguments).stdout


def test_a_profile_of_another_device_is_said_beside_every_answer(place: Path) -> None:
    runs, gpu, one = place / "runs", place / "gpu.json", place / "runs" / "b32-s0-1"
    told = "H200, the runs are of mlp (depth 2, width 128) on digits, cpu (test): their step times need not be the same."
    assert told in ask("advise", one, "--profile", gpu)
    assert told in json.loads(ask("advise", one, "--profile", gpu, "--json"))["notes"][0]
    assert told in ask("advise", runs, "--profile", gpu, "--reference", one)
    assert told in json.loads(ask("advise", runs, "--profile", gpu, "--reference", one, "--json"))["words"][-1]
    assert told in ask("scale", runs, "--profile", gpu)
    assert told in ask("report", runs, "--profile", gpu, "--output", place / "report")
    assert told in (place / "report" / "report.html").read_text()
    assert told not in ask("advise", runs, "--profile", place / "profile.json", "--reference", one)


def test_the_noise_in_the_optimizers_own_norm_is_told_beside_what_is_predicted(place: Path) -> None:
    other = made_folder(place / "other", 32)
    summary = other / run_folder.SUMMARY
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "dual_noise_scale": 123.0}))
    told = "own norm the run's noise scale is 123 samples"
    assert told in ask("advise", other, "--profile", place / "profile.json")
    answer, before = (json.loads(ask("advise", run, "--profile", place / "profile.json", "--json")) for run in (other, place / "runs" / "b32-s0-1"))
    assert (answer["dual_noise_scale"], before["dual_noise_scale"]) == (123.0, None)
    assert told in answer["notes"][-1]
    assert "The prediction stands on the Euclidean noise alone." in answer["notes"][-1]
    assert answer["predicted"] == before["predicted"]


def test_a_profile_of_another_model_is_refused(place: Path) -> None:
    for command in (["advise", place / "runs" / "b32-s0-1"], ["report", place / "runs"], ["scale", place / "runs"]):
        with pytest.raises(LargebatchError, match=r"--profile: was measured with lenet, and the runs trained mlp \(depth 2, width 128\)\."):
            ask(*command, "--profile", place / "lenet.json")


def test_a_profile_of_another_optimizer_is_refused(place: Path) -> None:
    """Its steps take another time: sgd's stood for lamb's, and times came out 13 % too short."""
    lamb = place / "lamb.json"
    lamb.write_text(made_profile().model_copy(update={"optimizer": "lamb"}).model_dump_json())
    one = place / "runs" / "b32-s0-1"
    for command in (["advise", one], ["report", place / "runs"], ["scale", place / "runs"], ["advise", place / "runs", "--reference", one]):
        with pytest.raises(
            LargebatchError, match=r"--profile: was measured with lamb, and the runs that it is for trained with sgd\. .*profile-OPTIMIZER"
        ):
            ask(*command, "--profile", lamb)


def test_a_reference_of_another_device_is_refused(place: Path) -> None:
    other = made_folder(place / "other", 128)
    (other / run_folder.ENVIRONMENT).write_text(json.dumps({"device": "H200"}))
    with pytest.raises(LargebatchError, match=r"--reference: .* is of mlp on digits, H200, and the runs are of"):
        ask("advise", place / "runs", "--profile", place / "profile.json", "--reference", other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--critical-batch", "0", "--min-samples", "1"], "--critical-batch: 0 is not a number above 0"),
        (["--critical-batch", "100", "--min-samples", "-1"], "--min-samples: -1 is not a number above 0"),
        (["--critical-batch", "nan", "--min-samples", "1"], "--critical-batch: nan is not"),
        (["--critical-batch", "100"], "--min-samples: is missing"),
        (["--min-samples", "100"], "--critical-batch: is missing"),
        (["runs", "--critical-batch", "100", "--min-samples", "1000"], "exclude each other"),
    ],
)
def test_half_a_curve_or_an_impossible_one_is_refused(place: Path, options: list[str], words: str) -> None:
    with pytest.raises(LargebatchError, match=words):
        ask("scale", "--profile", place / "profile.json", *options)


def test_workers_beyond_the_training_samples_are_named(place: Path) -> None:
    curve = ["--critical-batch", "500", "--min-samples", "20000", "--profile", place / "profile.json", "--workers", "1,64,5000"]
    said = ask("scale", *curve)
    assert "Left out: 5,000 workers, for there are 4,096 training samples and each needs one." in said
    done = largebatch("scale", *curve, "--json")
    assert [row["num_workers"] for row in json.loads(done.stdout)] == [1, 64]
    assert "Left out: 5,000 workers" in done.stderr


MACHINES = ["--per-machine", "8", "--bandwidth-inside", "3600", "--bandwidth", "400"]


def test_machines_are_told_with_what_limits_each_number_of_workers(place: Path) -> None:
    asked = ["scale", place / "runs", "--profile", place / "profile.json", *MACHINES, "--latency", "8.5", "--startup", "3", "--workers", "1,8,64"]
    done = largebatch(*asked, "--json")
    rows = json.loads(done.stdout)
    assert [row["num_workers"] for row in rows] == [1, 8, 64]
    parts = ("compute_s", "link_inside_s", "link_between_s", "evaluation_s", "startup_s")
    assert all(row["seconds"] == pytest.approx(sum(row[part] for part in parts)) for row in rows)
    assert [row["startup_s"] for row in rows] == [3.0, 3.0, 3.0]
    assert rows[0]["evaluation_s"] > 0, "as the runs had it"
    assert [row["link_between_s"] > 0 for row in rows] == [False, False, True]
    assert {row["limited_by"] for row in rows} == {"start-up"}
    assert rows[2]["beyond"] == ["runs"]
    assert "Beyond the runs" in done.stderr
    said = ask(*asked, "--figure", place / "figures" / "workers.html")
    assert "limited by" in said
    assert "machines of 8, 3,600 Gbit/s and 2 us inside, 400 Gbit/s and 8.5 us between, 0% of an all-reduce beside the backward pass" in said
    page = (place / "figures" / "workers.html").read_text()
    assert "limited by start-up" in page
    assert "beyond what was measured" in page


def test_a_shape_alone_asks_about_whole_machines_and_says_what_is_not_counted(place: Path) -> None:
    known = ["scale", "--critical-batch", "500", "--min-samples", "20000", "--profile", place / "profile.json", *MACHINES]
    said = ask(*known, "--largest-share", "16")
    assert [line.split()[0] for line in said.splitlines()[1:9]] == ["1", "8", "16", "32", "64", "128", "256", "512"]
    assert "Not counted: start-up and evaluation (--startup, --evaluation)." in said
    assert "memory" in said
    assert "At most 16 samples fit into a worker at once" in said
    rows = json.loads(ask(*known, "--workers", "1,8", "--evaluation", "2", "--evaluate-every", "0.5", "--json"))
    assert [row["evaluation_s"] for row in rows] == [pytest.approx(max(row["samples"] / 2048, 1) * 2 / row["num_workers"]) for row in rows]


def test_one_link_for_all_gives_what_it_gave_before_machines_were_known(place: Path) -> None:
    """Restated: a step's fixed cost, its arithmetic, and of the all-reduce what does not hide behind two thirds of that, a quarter at least."""
    for row in json.loads(ask("scale", place / "runs", "--profile", place / "profile.json", "--workers", "1,4,64", "--json")):
        workers, batch = row["num_workers"], row["global_batch_size"]
        arithmetic = batch / workers / 40_000
        travel = 2 * (workers - 1) / workers * 4000 / 1.25e9 + 2 * math.log2(workers) * 50e-6
        step = 0.002 + arithmetic + max(travel - 2 / 3 * arithmetic, travel / 4)
        assert row["seconds"] == pytest.approx(row["steps"] * step, rel=1e-6)
        assert row["evaluation_s"] == row["startup_s"] == row["link_inside_s"] == 0


def test_of_several_optimizers_the_soonest_has_the_curve_and_says_what_was_measured(place: Path) -> None:
    for batch in (64, 1024):
        spec = made_folder(place / "runs", batch) / run_folder.SPEC
        fields = json.loads(spec.read_text())
        spec.write_text(json.dumps({**fields, "optimizer": {**fields["optimizer"], "name": "lars"}}))
    done = largebatch("scale", place / "runs", "--profile", place / "profile.json", "--workers", "1,32", "--json")
    assert "The critical batch is that of the runs with sgd, the soonest of" in done.stderr
    rows = json.loads(done.stdout)
    assert [row["global_batch_size"] for row in rows] == [256, 1024]
    assert rows[1]["beyond"] == ["runs"], "its largest batch was 512; 1,024 is the other optimizer's"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--per-machine", "8"], "--bandwidth-inside: is missing: what joins the workers of one machine"),
        (["--bandwidth-inside", "3600"], "--per-machine: is missing: --bandwidth-inside is of machines"),
        ([*MACHINES, "--workers", "8,12,20"], r"--workers: 12, 20 do not fill machines of 8\. Give multiples of 8\."),
        ([*MACHINES, "--overlap", "1.5"], r"--overlap: 1\.5 is not a share from 0 to 1"),
        ([*MACHINES, "--overlap", "nan"], "--overlap: nan is not a share"),
        ([*MACHINES, "--startup", "-1"], "--startup: -1 is not a number above 0"),
        ([*MACHINES, "--evaluation", "nan"], "--evaluation: nan is not a number above 0"),
        ([*MACHINES, "--evaluate-every", "0"], "--evaluate-every: 0 is not a number above 0"),
        ([*MACHINES, "--latency-inside", "inf"], "--latency-inside: inf is not a number above 0"),
        ([*MACHINES, "--memory", "80"], "--memory: needs a GPU's profile"),
        ([*MACHINES, "--memory", "80", "--largest-share", "8"], "--largest-share: and --memory exclude each other"),
        (["--bandwidth", "0"], "--bandwidth: 0 is not a number above 0"),
        (["--figure", "workers.pdf"], r"--figure: workers\.pdf ends in neither \.html nor \.png"),
    ],
    ids=lambda given: " ".join(given[-2:]) if isinstance(given, list) else "",
)
def test_a_cluster_that_cannot_be_gets_one_sentence(place: Path, options: list[str], words: str) -> None:
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=words) as caught:
        ask("scale", "--critical-batch", "500", "--min-samples", "20000", "--profile", place / "profile.json", *options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["advise", "runs", "--deadline", "-1"], "--deadline: -1 is not a number above 0"),
        (["advise", "runs", "--max-samples", "nan"], "--max-samples: nan is not a number"),
        (["advise", "runs", "--target", "nan"], "--target: nan is not a number"),
        (["report", "runs", "--target", "nan"], "--target: nan is not a number"),
        (
            ["advise", "runs", "--profile", "nowhere.json"],
            r"--profile: nowhere.json cannot be read as a profile: No such file or directory\. Make one: larg",
        ),
        (["advise", "runs", "--profile", "empty.json"], "--profile: empty.json cannot be read as a profile: recipe: Field required"),
        (["advise", "runs", "--profile", "half.json"], "--profile: half.json cannot be read as a profile: Invalid JSON"),
        (["advise", "runs", "--experiment", "x", "--mlflow-uri", "sqlite:///x.db"], "--experiment: and FOLDER exclude each other"),
        (["advise", "--experiment", "x", "--mlflow-uri", "sqlite:///x.db"], r"--mlflow-uri: there is no file x\.db"),
        (["advise", "--experiment", "x", "--mlflow-uri", "carrier://pigeon"], "--mlflow-uri: MLflow cannot use carrier://pigeon"),
        (["report", "runs", "--output", "profile.json"], r"--output: profile\.json is a file, not a folder"),
        (["compare", "runs", "--figure", "profile.json/x.png"], r"--figure: profile\.json is a file, not a folder"),
        (["compare", "runs", "--figure", "folder.png"], r"--figure: folder\.png is a folder, not a file"),
        (["scale", "--profile", "profile.json", "--critical-batch", "5", "--min-samples", "5", "--bandwidth", "nan"], "--bandwidth: nan is not a"),
        (["scale", "--profile", "profile.json", "--critical-batch", "5", "--min-samples", "5", "--latency", "inf"], "--latency: inf is not a"),
        (["scale", "--profile", "profile.json", "--critical-batch", "5", "--min-samples", "5", "--workers", "5000"], "--workers: 5000 are more than"),
        (["profile", "digits-lamb", "--seconds", "nan"], "--seconds: nan is not a number"),
        (["profile", "digits-lamb", "--output", "folder.png"], r"--output: folder\.png is a folder, not a file"),
        (["profile", "digits-lamb", "--figure", "profile.json"], r"--figure: profile\.json is a file, not a folder"),
        (["sharpness", "runs/b32-s0-1", "--figure", "profile.json"], r"--figure: profile\.json is a file, not a folder"),
    ],
    ids=lambda given: " ".join(given[:1] + given[-2:]) if isinstance(given, list) else "",
)
def test_typical_mistakes_get_one_sentence_before_anything_is_done(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(place)
    (place / "empty.json").write_text("{}")
    (place / "half.json").write_text('{"recipe": ')
    (place / "folder.png").mkdir()
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=words) as caught:
        ask(*arguments)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (run_folder.SUMMARY, "{", "Invalid JSON"),
        (run_folder.SUMMARY, "{}", "run_id: Field required"),
        (run_folder.SPEC, "[]", r"spec\.json holds no mapping"),
        (run_folder.ENVIRONMENT, None, r"environment\.json: No such file"),
        (run_folder.ENVIRONMENT, "{}", "'device' is missing"),
        (run_folder.PLAN, "{", "Expecting property name"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "advise", "report"])
def test_a_run_whose_files_are_damaged_is_named(place: Path, command: str, name: str, text: str | None, words: str) -> None:
    path = place / "runs" / "b128-s0-1" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"runs/b128-s0-1: cannot be read, its files are damaged \({words}.*\)\. Remove it, or leave it out\."):
        ask(command, place / "runs", *(["--output", place / "report"] if command == "report" else []))


def test_a_sweep_whose_description_is_damaged_is_named(place: Path) -> None:
    (place / "runs" / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"FOLDER: .*sweep\.json cannot be read \(Invalid JSON.*\)\. Give the folders of its runs\."):
        ask("compare", place / "runs")


class ForeignRuns:
    """An MLflow whose experiment holds runs that other programs made, a run of ours that has not ended, and a sweep's own."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    def get_experiment_by_name(self, name: str) -> Any:
        return type("Experiment", (), {"experiment_id": "1"})

    def search_runs(self, *_: Any, **__: Any) -> Any:
        def run(**tags: str) -> Any:
            return type("Run", (), {"data": type("Data", (), {"tags": tags, "params": {}, "metrics": {}})})

        class Page(list[Any]):
            token = None

        return Page([run(), run(), run(**{RUN_TAG: "ours"}), run(**{SWEEP_TAG: "tried"})])


def test_foreign_runs_in_mlflow_are_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.MlflowClient", ForeignRuns)
    arguments = ["--experiment", "theirs", "--mlflow-uri", "http://theirs"]
    told = "Not read: 2 runs that largebatch did not make; --mapping says what their parameters mean."
    with pytest.raises(LargebatchError, match=f"there is no run that has ended. Left out: 1 runs that have not ended. {told}"):
        ask("advise", *arguments)
    said = ask("report", *arguments, "--output", place / "report")
    assert told in said
    assert "yet" not in said


def test_what_compared_runs_differ_in_is_named_and_runs_of_one_name_by_their_own(place: Path) -> None:
    """Two seeds, of which one has other weight decay; a field that all share is no difference."""
    other = made_folder(place / "runs", 32, seed=1)
    spec = json.loads((other / run_folder.SPEC).read_text())
    spec["optimizer"]["weight_decay"] = 0.25
    (other / run_folder.SPEC).write_text(json.dumps(spec))
    pair = (place / "runs" / "b32-s0-1", other)
    rows = json.loads(ask("compare", *pair, "--json"))
    assert [row["differs"] for row in rows] == [{"seed": "0", "optimizer.weight_decay": "0.0005"}, {"seed": "1", "optimizer.weight_decay": "0.25"}]
    text = ask("compare", *pair)
    assert "They differ in seed and optimizer.weight_decay." in text
    head, first, second, *_ = text.splitlines()
    assert [word in head for word in ("seed", "weight decay", "learning rate")] == [True, True, False]
    assert (first.split()[0], second.split()[0]) == ("b32-s0-1", "b32-s1-1")
    assert "They differ" not in ask("compare", pair[0])
    assert len(json.loads(ask("compare", *pair, pair[0], place / "runs" / "." / pair[0].name, "--json"))) == 2, "each run once"
    larger = made_folder(place / "runs", 64, seed=0)
    assert "They differ in batch." in ask("compare", pair[0], larger)
