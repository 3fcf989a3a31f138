"""Run folders on storage by URI, against a real server that speaks S3."""

import json
from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
import torch
from launch_runs import Head

from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.local import prepare_locally, train_locally
from largebatch.jobs.launch.on_ray.cluster import connected
from largebatch.jobs.launch.on_ray.worker.shared_storage import refuse_unshared
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.stored_runs import fetch_stored, going_on, mirrored_spec
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.run.storage import Storage
from largebatch.jobs.spec.read import build_spec

pytestmark = pytest.mark.filterwarnings("ignore")


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


def test_workers_keep_their_run_on_s3(head: Head, bucket: str, undisturbed: Path, tmp_path: Path) -> None:
    stored = Storage(f"{bucket}/workers")
    assert (stored.read("run/records.jsonl") or b"").count(b'"kind":"step"') == runs.STEPS
    assert stored.read("run/summary.json") == (undisturbed / "summary.json").read_bytes()
    assert not [name for name in stored.sizes("") if "probe" in name]
    again = runs.Watcher()
    summary = runs.train(tmp_path / "scratch", head.address, Workers(2, 2), runs.document(), again, store=f"{bucket}/workers")
    assert (summary.run_dir, summary.steps) == (f"{bucket}/workers/run", runs.STEPS)
    assert "ended before" in again.notices[0]


def test_a_bucket_that_is_not_there_is_refused(head: Head, bucket: str) -> None:
    """As each worker asks before it prepares anything."""
    refused = pytest.raises(InputError, match=r"s3://nobody/runs cannot be written .*, says the worker on node")
    with connected(TrainOptions(address=head.address)), refused:
        refuse_unshared("s3://nobody/runs", Ranks(torch.device("cpu")), patience_s=0.0)


def test_without_a_tracking_server_a_stored_run_has_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = build_spec(runs.document(tracking={"enabled": True}))
    assert mirrored_spec(spec, TrainOptions()).tracking.enabled
    assert not mirrored_spec(spec, TrainOptions(store="s3://bucket/runs")).tracking.enabled
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert mirrored_spec(spec, TrainOptions(store="s3://bucket/runs")).tracking.enabled
