"""Runs that were trained elsewhere and are added: shown like those of the service, once, and nothing of them that no run has left."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from servers import Service, new_token
from small_runs import prepared, trained

import largebatch
from largebatch.jobs.run.storage import Storage
from largebatch.service.added_run import MOST_BYTES
from largebatch.service.queue.run_folders import RunCopies

OPTIONS = ("--with-tokens", "--max-running-per-owner", "0")
ADD = "/v1/runs/add"


@pytest.fixture(scope="module")
def people(service: Service) -> Iterator[dict[str, httpx.Client]]:
    scopes = {"anna": "submit", "bert": "submit", "emil": "read"}
    secrets = {owner: new_token(service.runs_dir, owner, "--scope", scope) for owner, scope in scopes.items()}
    clients = {owner: httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {secret}"}) for owner, secret in secrets.items()}
    clients["anna"].post("/login", data={"token": secrets["anna"]})  # for the pages
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run of another program's loop."""
    sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1, momentum=0.9)
    said: dict[str, Any] = {"model": "net", "dataset": "data", "optimizer": sgd, "global_batch_size": 8, "num_train_samples": 16}
    with largebatch.Recorder(**said, output_dir=tmp_path_factory.mktemp("recorded"), target=0.5, seed=3) as recorder:
        for loss in recorder.training((2.0, 1.0)):
            recorder.step(loss, 8, noise=(6.0, 2.0))
        recorder.evaluation({"accuracy": 0.75, "loss": 0.5})
    return files_of(recorder.run_dir)


def files_of(folder: Path) -> dict[str, bytes]:
    """What is sent of a run's folder."""
    names = ("spec.json", "records.jsonl", "summary.json", "plan.json")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def added(person: httpx.Client, files: Any, **options: Any) -> httpx.Response:
    parts = list(files.items()) if isinstance(files, dict) else files
    return person.post(ADD, files=[("files", part) for part in parts], **options)


def test_a_recorded_run_is_shown_like_the_services_own(people: dict[str, httpx.Client], service: Service, recorded: dict[str, bytes]) -> None:
    anna = people["anna"]
    first, second = added(anna, recorded), added(anna, recorded)
    assert (first.status_code, second.status_code, first.json()) == (201, 201, second.json())
    assert (first.headers.get("Idempotent-Replayed"), second.headers["Idempotent-Replayed"]) == (None, "true")
    job = first.json()
    run = first.headers["Location"]
    assert run == f"/v1/runs/{job['id']}"
    assert (job["state"], job["outcome"], job["owner"], job["added_bytes"]) == ("succeeded", "reached", "anna", sum(map(len, recorded.values())))
    assert (job["optimizer"], job["global_batch_size"], job["learning_rate"], job["momentum"], job["seed"]) == ("sgd", 8, 0.1, 0.9, 3)
    assert (job["progress"]["score"], job["progress"]["step"], job["progress"]["metric"]) == (0.75, 2, "accuracy")
    assert files_of(service.runs_dir / job["id"]) == recorded
    assert anna.get("/v1/runs", params={"where": "score>0.7", "owner": "anna"}).json()["items"] == [job]
    series = anna.get(f"{run}/series").json()
    assert (len(series["steps"]), len(series["evaluations"])) == (2, 1)
    for path in (f"/runs/{job['id']}", "/runs", f"/compare?run={job['id']}"):
        page = anna.get(path, headers={"Accept": "text/html"})
        assert (page.status_code, job["id"] in page.text) == (200, True), path
    page = anna.get(f"/runs/{job['id']}", headers={"Accept": "text/html"}).text
    assert "added: trained elsewhere, by plain loop" in page
    assert not [word for word in ("Edit and run again", 'data-act="resume"', "As a command", 'id="log"') if word in page]
    assert anna.get(f"{run}/next").json() == {"train_command": "", "submit_command": "", "remedies": []}
    assert (anna.get(f"{run}/logs").text, anna.get(f"{run}/weights").status_code) == ("", 404)
    assert anna.get("/runs/new", params={"like": job["id"]}, headers={"Accept": "text/html"}).status_code == 422
    refused = anna.post(f"{run}/resume")
    assert (refused.status_code, "trained elsewhere" in refused.json()["problem"]) == (409, True)
    assert "event: over" in anna.get(f"{run}/events").text
    # The same run of somebody else is theirs, and another; nobody else's can be seen or taken away.
    assert [people["bert"].get(run).status_code, people["bert"].delete(run).status_code] == [404, 404]
    other = added(people["bert"], recorded).json()
    assert (other["owner"], other["id"] == job["id"]) == ("bert", False)
    assert people["bert"].delete(f"/v1/runs/{other['id']}").status_code == 204
    assert not (service.runs_dir / other["id"]).exists()


def test_what_a_kill_left_between_folder_and_row_is_taken_up(
    people: dict[str, httpx.Client], service: Service, recorded: dict[str, bytes], tmp_path: Path
) -> None:
    job_id = added(people["bert"], recorded).json()["id"]
    shutil.copytree(service.runs_dir / job_id, tmp_path / "kept")
    assert people["bert"].delete(f"/v1/runs/{job_id}").status_code == 204
    shutil.copytree(tmp_path / "kept", service.runs_dir / job_id)
    left = [service.runs_dir / ".service" / name for name in ("adding-old", "adding-now")]
    for folder in left:
        folder.mkdir()
    os.utime(left[0], (0, 0))
    again = added(people["bert"], recorded)
    assert [folder.exists() for folder in left] == [False, True], "what arrived when a service was killed goes; what may still arrive stays"
    left[1].rmdir()
    assert (again.status_code, again.json()["id"], "Idempotent-Replayed" in again.headers) == (201, job_id, False)
    assert files_of(service.runs_dir / job_id) == recorded


def test_a_service_that_keeps_runs_by_uri_keeps_these_there(recorded: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "arrived").mkdir()
    for name, content in recorded.items():
        (tmp_path / "arrived" / name).write_bytes(content)
    storage = Storage((tmp_path / "store").as_uri())
    copies = RunCopies(storage, tmp_path / "copies", list)
    assert copies.take(tmp_path / "arrived", "run")
    copies.refresh("run")
    assert files_of(copies.root / "run") == recorded
    copies.remove("run")
    assert storage.sizes("run") == {}


def test_a_run_of_our_own_can_be_edited_and_not_resumed(people: dict[str, httpx.Client], tmp_path: Path) -> None:
    trained(prepared(stop={"epochs": 1.0, "target_accuracy": 1.0}), tmp_path / "run")
    files = files_of(tmp_path / "run")
    job = added(people["anna"], files).json()
    assert (job["state"], job["outcome"]) == ("succeeded", "missed")
    page = people["anna"].get(f"/runs/{job['id']}", headers={"Accept": "text/html"}).text
    assert ("Edit and run again" in page, "Go on with it" in page, "What to change" in page) == (True, False, True)
    (remedy,) = people["anna"].get(f"/v1/runs/{job['id']}/next").json()["remedies"]
    assert (remedy["set"], remedy["resumes"]) == ({"stop.epochs": 2.0}, False)
    assert people["anna"].get("/runs/new", params={"like": job["id"]}, headers={"Accept": "text/html"}).status_code == 200
    # The same, as it was before its end, with a line that is none, and the last one cut short.
    del files["summary.json"]
    files["records.jsonl"] = b"\n".join([b"[" * 1000, *files["records.jsonl"].splitlines()[:-1], b'{"kind":"st'])
    job = added(people["anna"], files).json()
    assert (job["state"], job["outcome"], job["reason"]) == ("cancelled", None, "It had not ended when it was added.")
    assert people["anna"].get(f"/v1/runs/{job['id']}/records").json()["num_unreadable"] == 1
    assert people["anna"].post(f"/v1/runs/{job['id']}/resume").status_code == 409


def changed(files: dict[str, bytes], file: str, **fields: Any) -> dict[str, bytes]:
    return {**files, file: json.dumps({**json.loads(files[file]), **fields}).encode()}


def test_what_no_run_has_left_is_refused_and_leaves_nothing(people: dict[str, httpx.Client], service: Service, recorded: dict[str, bytes]) -> None:
    anna, before = people["anna"], sorted(path.name for path in service.runs_dir.iterdir() if path.is_dir())
    spec = json.loads(recorded["spec.json"])
    hostile: list[tuple[Any, int, str]] = [
        ({**recorded, "model.pt": b"weights"}, 422, "'model.pt' is not a file of a run that is taken"),
        ({**recorded, "run.zip": b"PK"}, 422, "'run.zip' is not a file"),
        ({**recorded, "../../spec.json": b"{}"}, 422, "is not a file of a run"),
        ([*recorded.items(), ("spec.json", b"{}")], 422, "spec.json comes twice"),
        ([(f"{number}", b"") for number in range(9)], 400, "Too many files"),
        ({"spec.json": recorded["spec.json"]}, 422, "it has no records.jsonl"),
        ({}, 422, "it has no spec.json"),
        ({**recorded, "spec.json": b" " * (257 << 10)}, 422, "is larger than 0.25 MiB"),
        ({**recorded, "spec.json": b"[" * 1000}, 422, "is no JSON object"),
        (changed(recorded, "spec.json", name="größe"), 422, "cannot name a job here"),
        (changed(recorded, "spec.json", name="../up"), 422, "name: may hold letters"),
        (changed(recorded, "spec.json", optimizer={"name": 7}), 422, "optimizer.name: is no text"),
        (changed(recorded, "spec.json", seed=1 << 60), 422, "holds a number beyond"),
        (changed(recorded, "spec.json", settings={"text": "x" * (65 << 10)}), 422, "tells more than 64 KiB"),
        ({**recorded, "spec.json": json.dumps({key: spec[key] for key in spec if key != "optimizer"}).encode()}, 422, "optimizer"),
        (changed(recorded, "summary.json", steps="many"), 422, "summary.json: is not one that largebatch wrote"),
        ({**recorded, "plan.json": b'{"total_steps": "many", "total_samples": 1}'}, 422, "plan.json: is not one"),
        ({**recorded, "records.jsonl": b"nothing\n"}, 422, "tells of no run that has begun"),
    ]
    for files, status, words in hostile:
        answer = added(anna, files) if files else anna.post(ADD)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert anna.post(ADD, files=[("files", ("spec.json", b"{}"))], data={"id": "x"}).status_code == 400
    head = f"POST {ADD} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\nContent-Length: {MOST_BYTES << 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    assert added(people["emil"], recorded).status_code == 403
    assert httpx.post(f"{service.url}{ADD}", files=[("files", ("spec.json", b"{}"))]).status_code == 401
    assert sorted(path.name for path in service.runs_dir.iterdir() if path.is_dir()) == before
    assert not list((service.runs_dir / ".service").glob("adding-*"))
