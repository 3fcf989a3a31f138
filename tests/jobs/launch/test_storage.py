"""Run folders on storage by URI, against a real server that speaks S3."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
from buckets import new_bucket
from launch_runs import Head

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.launch.local import prepare_locally, train_locally
from largebatch.jobs.launch.on_ray.train import train_on_ray
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.stored_runs import fetch_stored, going_on, mirrored_spec
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.run.storage import Storage
from largebatch.jobs.spec.read import build_spec

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with new_bucket() as made:
        yield made


def launch(options: TrainOptions, spec_document: dict[str, Any], watcher: runs.Watcher | None = None) -> Any:
    options = going_on(fetch_stored(options))
    spec = resumed_spec(options.resume, [f"stop.steps={spec_document['stop']['steps']}"]) if options.resume else build_spec(spec_document)
    return train_locally(prepare_locally(spec, options), options, (watcher or runs.Watcher()).listener())


def test_a_stored_run_goes_on_on_another_machine(bucket: str, tmp_path: Path) -> None:
    store = f"{bucket}/moved"
    here = TrainOptions(output_dir=tmp_path / "here", device="cpu", run_id="run", store=store)
    whole = launch(TrainOptions(output_dir=tmp_path / "whole", device="cpu", run_id="run"), runs.document())
    first = launch(here, runs.document(stop={"steps": 30}))
    assert (first.run_dir, first.outcome) == (f"{store}/run", Outcome.COMPLETED)
    there = TrainOptions(output_dir=tmp_path / "there", device="cpu", run_id="run", store=store)
    second = launch(there, runs.document())
    assert second.steps == runs.STEPS
    assert runs.steps(tmp_path / "there" / "run") == list(range(1, runs.STEPS + 1))
    # Another schedule's horizon was in force for the first half of it, but not for a constant rate.
    assert second.parameters_sha256 == whole.parameters_sha256
    stored = Storage(store).sizes("run")
    assert {name: (tmp_path / "there" / "run" / name).stat().st_size for name in stored} == stored
    assert {"records.jsonl", "summary.json", "spec.json", "plan.json"} <= set(stored)
    assert json.loads(Storage(store).read("run/summary.json") or b"")["parameters_sha256"] == whole.parameters_sha256


def test_workers_keep_their_run_on_s3(head: Head, bucket: str, tmp_path: Path) -> None:
    options = TrainOptions(output_dir=tmp_path / "scratch", device="cpu", run_id="run", store=f"{bucket}/workers")
    options = replace(options, workers=Workers(2, 2), cpus_per_worker=0.5, address=head.address)
    summary = train_on_ray(build_spec(runs.document(stop={"steps": 10})), options, runs.Watcher().listener())
    assert summary.run_dir == f"{bucket}/workers/run"
    stored = Storage(f"{bucket}/workers")
    assert (stored.read("run/records.jsonl") or b"").count(b'"kind":"step"') == 10
    assert not [name for name in stored.sizes("") if "probe" in name]
    again = runs.Watcher()
    assert train_on_ray(build_spec(runs.document(stop={"steps": 10})), options, again.listener()) == summary
    assert "ended before" in again.notices[0]


def test_a_bucket_that_is_not_there_is_refused(head: Head, bucket: str, tmp_path: Path) -> None:
    options = TrainOptions(output_dir=tmp_path / "scratch", device="cpu", run_id="run", store="s3://nobody/runs")
    options = replace(options, workers=Workers(1, 1), address=head.address)
    with pytest.raises((InputError, StorageError), match="s3://nobody/runs"):
        train_on_ray(build_spec(runs.document()), options, runs.Watcher().listener())


def test_without_a_tracking_server_a_stored_run_has_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = build_spec(runs.document(tracking={"enabled": True}))
    assert mirrored_spec(spec, TrainOptions()).tracking.enabled
    assert not mirrored_spec(spec, TrainOptions(store="s3://bucket/runs")).tracking.enabled
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert mirrored_spec(spec, TrainOptions(store="s3://bucket/runs")).tracking.enabled
