"""Run folders on storage by URI, against a real server that speaks S3."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
from buckets import new_bucket
from launch_runs import Head

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.launch import options as launch_options
from largebatch.jobs.launch.local import prepare_locally, train_locally
from largebatch.jobs.launch.on_ray.train import train_on_ray
from largebatch.jobs.launch.options import LocalOptions, RayOptions, Workers, fetch_stored, read_places
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.run.storage import Storage, StoredRun, split_place
from largebatch.jobs.spec.read import build_spec

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with new_bucket() as made:
        yield made


def test_places(tmp_path: Path) -> None:
    assert split_place("runs") == (Path("runs"), None)
    assert split_place(f"file://{tmp_path}/my%20runs") == (tmp_path / "my runs", None)
    scratch, store = split_place("s3://bucket/runs")
    assert store == "s3://bucket/runs"
    assert split_place("s3://bucket/runs")[0] == scratch != split_place("s3://bucket/other")[0]
    with pytest.raises(InputError, match="names no bucket"):
        split_place("s3:///runs")
    resumed = read_places(Path("data"), "runs", "cpu", "s3://bucket/runs/one/")
    assert (resumed.store, resumed.resume) == ("s3://bucket/runs", scratch / "one")
    with pytest.raises(InputError, match="cannot be used as storage"):
        Storage("gopher://bucket/runs")


def launch(options: LocalOptions, given: dict[str, Any], watcher: runs.Watcher | None = None) -> Any:
    options = fetch_stored(options).going_on()
    spec = resumed_spec(options.resume, [f"stop.steps={given['stop']['steps']}"]) if options.resume else build_spec(given)
    return train_locally(prepare_locally(spec, options), options, (watcher or runs.Watcher()).listener())


def test_a_stored_run_goes_on_on_another_machine(bucket: str, tmp_path: Path) -> None:
    store = f"{bucket}/moved"
    here = LocalOptions(Path("data"), tmp_path / "here", "cpu", run_id="run", store=store)
    whole = launch(LocalOptions(Path("data"), tmp_path / "whole", "cpu", run_id="run"), runs.document())
    first = launch(here, runs.document(stop={"steps": 30}))
    assert (first.run_dir, first.outcome) == (f"{store}/run", Outcome.COMPLETED)
    there = LocalOptions(Path("data"), tmp_path / "there", "cpu", run_id="run", store=store)
    second = launch(there, runs.document())
    assert second.steps == runs.STEPS
    assert runs.steps(tmp_path / "there" / "run") == list(range(1, runs.STEPS + 1))
    # Another schedule's horizon was in force for the first half of it, but not for a constant rate.
    assert second.parameters_sha256 == whole.parameters_sha256
    stored = Storage(store).sizes("run")
    assert {name: (tmp_path / "there" / "run" / name).stat().st_size for name in stored} == stored
    assert {"records.jsonl", "summary.json", "spec.json", "plan.json"} <= set(stored)
    assert json.loads(Storage(store).read("run/summary.json") or b"")["parameters_sha256"] == whole.parameters_sha256


def test_storage_that_refuses_for_a_while_costs_nothing(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, said = tmp_path / "run", list[str]()
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "records.jsonl").write_text("one\n")
    monkeypatch.setattr("largebatch.jobs.run.storage.PUSH_EVERY_S", 0.05)
    right = runs.S3_ENVIRONMENT["AWS_ENDPOINT_URL"]
    stored = StoredRun(f"{bucket}/later", run_dir, said.append)
    upload = stored._storage.upload
    refuses = True

    def sometimes(source: Path, name: str) -> None:
        if refuses:
            raise OSError("AWS Error SLOW_DOWN")
        upload(source, name)

    monkeypatch.setattr(stored._storage, "upload", sometimes)
    with stored:
        runs.wait_for(lambda: bool(said), 10)
        time.sleep(0.3)
        refuses = False
        runs.wait_for(lambda: len(said) == 2, 10)
        (run_dir / "records.jsonl").write_text("one\ntwo\n")
    assert right
    assert "cannot be written" in said[0]
    assert "answers again" in said[1]
    assert Storage(f"{bucket}/later").read("run/records.jsonl") == b"one\ntwo\n"


def test_storage_that_refuses_for_good_says_where_the_run_is(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "records.jsonl").write_text("one\n")
    monkeypatch.setattr("largebatch.jobs.run.storage.PATIENCE_S", 0.2)
    with pytest.raises(StorageError, match=f"whole run is in {run_dir}"), StoredRun("s3://nobody/runs", run_dir, lambda text: None):
        pass


def test_checkpoints_come_after_their_records_and_go_when_pruned(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "records.jsonl").write_text("one\n")
    first = run_dir / "checkpoints" / f"step-00000001.{'0' * 32}.pt"
    first.write_bytes(b"1")
    stored = StoredRun(f"{bucket}/pruned", run_dir, lambda text: None)
    sent: list[str] = []
    upload = stored._storage.upload
    monkeypatch.setattr(stored._storage, "upload", lambda source, name: (sent.append(name), upload(source, name)))
    stored.push()
    assert sent == ["run/records.jsonl", f"run/checkpoints/{first.name}"]
    first.unlink()
    second = run_dir / "checkpoints" / f"step-00000002.{'1' * 32}.pt"
    second.write_bytes(b"2")
    stored.push()
    assert sent[2:] == [f"run/checkpoints/{second.name}"], "what has not changed is not sent again"
    assert set(Storage(f"{bucket}/pruned").sizes("run")) == {"records.jsonl", f"checkpoints/{second.name}"}


def test_a_machine_that_another_went_on_from_takes_what_is_stored(bucket: str, tmp_path: Path) -> None:
    def a_machine(name: str, journal: str, *checkpoints: int) -> StoredRun:
        folder = tmp_path / name / "run"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "records.jsonl").write_text(journal)
        if journal:
            (folder / "mlflow.json").write_text(str(len(journal)))
        for step in checkpoints:
            (folder / "checkpoints" / f"step-{step:08}.{'0' * 32}.pt").write_bytes(b"x")
        return StoredRun(f"{bucket}/overtaken", folder, lambda text: None)

    def held(name: str) -> tuple[str, list[str]]:
        folder = tmp_path / name / "run"
        assert (folder / "mlflow.json").read_text() == str((folder / "records.jsonl").stat().st_size), "what MLflow has is of this journal"
        return (folder / "records.jsonl").read_text(), sorted(path.name[:13] for path in (folder / "checkpoints").iterdir())

    first = a_machine("first", "1\n", 1)
    first.push()
    first = a_machine("first", "1\n2\n3\n", 3)  # and is cut off before this is stored
    second = a_machine("second", "")
    second.pull()
    assert held("second") == ("1\n", ["step-00000001"])
    first.pull()
    assert held("first") == ("1\n2\n3\n", ["step-00000001", "step-00000003"]), "nobody went on: what is here is more"
    a_machine("second", "1\n2b\n", 2).push()
    first.pull()
    assert held("first") == ("1\n2b\n", ["step-00000001", "step-00000002"]), "the longer journal here is no longer the run's"


def test_workers_keep_their_run_on_s3(head: Head, bucket: str, tmp_path: Path) -> None:
    options = LocalOptions(Path("data"), tmp_path / "scratch", "cpu", run_id="run", store=f"{bucket}/workers")
    ray_options = RayOptions(Workers(2, 2), cpus_per_worker=0.5, address=head.address)
    summary = train_on_ray(build_spec(runs.document(stop={"steps": 10})), options, ray_options, runs.Watcher().listener())
    assert summary.run_dir == f"{bucket}/workers/run"
    stored = Storage(f"{bucket}/workers")
    assert (stored.read("run/records.jsonl") or b"").count(b'"kind":"step"') == 10
    assert not [name for name in stored.sizes("") if "probe" in name]
    again = runs.Watcher()
    assert train_on_ray(build_spec(runs.document(stop={"steps": 10})), options, ray_options, again.listener()) == summary
    assert "ended before" in again.notices[0]


def test_a_bucket_that_is_not_there_is_refused(head: Head, bucket: str, tmp_path: Path) -> None:
    options = LocalOptions(Path("data"), tmp_path / "scratch", "cpu", run_id="run", store="s3://nobody/runs")
    ray_options = RayOptions(Workers(1, 1), address=head.address)
    with pytest.raises((InputError, StorageError), match="s3://nobody/runs"):
        train_on_ray(build_spec(runs.document()), options, ray_options, runs.Watcher().listener())


def test_without_a_tracking_server_a_stored_run_has_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = build_spec(runs.document(tracking={"enabled": True}))
    assert launch_options.mirrored_spec(spec, LocalOptions()).tracking.enabled
    assert not launch_options.mirrored_spec(spec, LocalOptions(store="s3://bucket/runs")).tracking.enabled
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert launch_options.mirrored_spec(spec, LocalOptions(store="s3://bucket/runs")).tracking.enabled
