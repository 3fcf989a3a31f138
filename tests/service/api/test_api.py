"""The REST interface of a real service, with real training runs."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx_sse
import psutil
import pytest
from carried_out import carry_out
from servers import Service
from small_runs import steps, wait_for

from largebatch.service.client import Client, RemoteError

UNTRACKED = {"tracking.enabled": False}
"""For runs whose MLflow nobody looks at: it costs more than all their steps."""
STEPS = 100
SHORT = {
    "recipe": "digits-small-batch",
    "set": {"stop.epochs": None, "stop.steps": STEPS, "stop.target_accuracy": None, "evaluation.every_epochs": 0.5, **UNTRACKED},
    "cpus": 1.0,
}
NUM_LISTENERS = 8
ENDLESS = {
    "recipe": "digits-small-batch",
    "set": {"stop.epochs": 1_000_000, "checkpoint.every_seconds": 0.2, "stop.target_accuracy": None, **UNTRACKED},
    "cpus": 1.0,
}


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


def events(http: httpx.Client, job_id: str, last: str = "") -> list[tuple[str, str, Any]]:
    """(name, id, data) until the stream ends."""
    with httpx_sse.connect_sse(http, "GET", f"/v1/runs/{job_id}/events", headers={"Last-Event-ID": last} if last else {}) as source:
        assert source.response.status_code == 200
        assert source.response.headers["content-type"].startswith("text/event-stream")
        return [(event.event, event.id, event.json()) for event in source.iter_sse()]


@pytest.fixture(scope="module")
def heard(http: httpx.Client) -> tuple[str, list[list[tuple[str, str, Any]]]]:
    """A run's id, and what each of several who listened from its submission to its end was told."""
    accepted = http.post("/v1/runs", json=SHORT)
    assert accepted.status_code == 202, accepted.text
    job_id = accepted.json()["id"]
    assert accepted.headers["Location"] == f"/v1/runs/{job_id}"
    with ThreadPoolExecutor(NUM_LISTENERS) as pool:
        return job_id, list(pool.map(lambda _: events(http, job_id), range(NUM_LISTENERS)))


@pytest.fixture(scope="module")
def ended(service: Service, heard: tuple[str, list[Any]]) -> dict[str, Any]:
    """That run: it succeeded."""
    return service.wait(heard[0], "succeeded", "failed")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"recipe": "digits-lamb", "set": {"seed": 1, "seed": 2}}', "key 'seed' is given twice."),
        (b'{"recipe": "digits-lamb"', "is not JSON: Expecting ',' delimiter."),
        (b"[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
    ],
)
def test_a_body_holds_every_key_once(http: httpx.Client, body: bytes, problem: str) -> None:
    answer = http.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["field"] == "body"
    assert answer.json()["problem"].startswith(problem)


def test_a_run_succeeds_and_tells_everything(ended: dict[str, Any], service: Service) -> None:
    assert ended["state"] == "succeeded", ended
    assert (ended["summary"]["steps"], ended["spec"]["stop"]["steps"], ended["progress"]["step"]) == (STEPS, STEPS, STEPS)
    assert ended["outcome"] == ended["summary"]["outcome"]
    assert "run_dir" not in ended["summary"], "where folders lie on the server is nobody's business"
    assert str(service.folder) not in json.dumps(ended)
    assert any("method=POST" in line and f"job={ended['id']}" in line for line in service.log.splitlines()), "logs lead from a request to its run"


def test_records_page_by_page(ended: dict[str, Any], http: httpx.Client) -> None:
    whole = http.get(f"/v1/runs/{ended['id']}/records").json()
    assert whole["is_complete"]
    assert [record["step"] for record in whole["items"] if record["kind"] == "step"] == list(range(1, STEPS + 1))
    after, items = 0, []
    while True:
        page = http.get(f"/v1/runs/{ended['id']}/records", params={"after": after, "limit": 30, "kind": "step"}).json()
        items += page["items"]
        after = page["next_after"]
        if page["is_complete"]:
            break
    assert items == [record for record in whole["items"] if record["kind"] == "step"]
    series = http.get(f"/v1/runs/{ended['id']}/series", params={"points": 3}).json()
    assert [record["step"] for record in series["steps"]] == [1, 65, STEPS], "each 64th, and the last"
    assert series["evaluations"][-1]["step"] == STEPS


def test_events_of_a_run_that_is_over(ended: dict[str, Any], http: httpx.Client) -> None:
    told = events(http, ended["id"])
    assert told[-1][0] == "over"
    assert [data["step"] for name, _, data in told if name == "step"] == list(range(1, STEPS + 1))
    middle = next(event_id for name, event_id, data in told if name == "step" and data["step"] == STEPS - 3)
    assert [data["step"] for name, _, data in events(http, ended["id"], middle) if name == "step"] == [STEPS - 2, STEPS - 1, STEPS]
    assert http.get(f"/v1/runs/{ended['id']}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_live_events_reach_every_listener_once_and_in_order(heard: tuple[str, list[Any]]) -> None:
    for told in heard[1]:
        assert [data["step"] for name, _, data in told if name == "step"] == list(range(1, STEPS + 1))
        states = [data["state"] for name, _, data in told if name == "job"]
        assert (states[0] in {"queued", "starting", "running"}, states[-1]) == (True, "succeeded"), "they listened before it began"


def trainer(job_id: str) -> psutil.Process:
    """The process that trains a run."""
    (found,) = [process for process in psutil.process_iter(["cmdline"]) if {"largebatch.jobs", job_id} <= set(process.info["cmdline"] or ())]
    return found


def test_progress_reaches_the_list_soon_and_a_run_goes_on_where_it_was_cancelled_or_killed(service: Service, http: httpx.Client) -> None:
    def step() -> int:
        return int(http.get(f"/v1/runs/{job_id}").json()["progress"].get("step", 0))

    job_id = http.post("/v1/runs", json=ENDLESS).json()["id"]
    service.wait(job_id, "running")
    journal = service.runs_dir / job_id / "records.jsonl"
    wait_for(lambda: journal.exists() and '"kind":"step"' in journal.read_text(), 60)
    wait_for(lambda: bool(http.get("/v1/runs", params={"q": job_id}).json()["items"][0]["progress"].get("step")), 20)
    assert http.post(f"/v1/runs/{job_id}/cancel").status_code == 202
    cancelled = service.wait(job_id, "cancelled")
    done = cancelled["progress"]["step"]
    assert http.post(f"/v1/runs/{job_id}/cancel").json()["state"] == "cancelled", "once more changes nothing"

    assert http.post(f"/v1/runs/{job_id}/resume").json()["state"] == "queued"
    service.wait(job_id, "running")
    wait_for(lambda: step() > done, 60)
    assert http.delete(f"/v1/runs/{job_id}").status_code == 409, "a running job is cancelled first"

    trainer(job_id).kill()
    wait_for(lambda: http.get(f"/v1/runs/{job_id}").json()["attempt"] == 3, 60)
    recovered = service.wait(job_id, "running", seconds=60)
    assert (recovered["failures"], "signal 9" in recovered["reason"]) == (1, True)
    http.post(f"/v1/runs/{job_id}/cancel")
    service.wait(job_id, "cancelled")
    done_steps = steps(service.runs_dir / job_id)
    assert done_steps == list(range(1, len(done_steps) + 1)), "gone on with, not begun anew"
    assert http.delete(f"/v1/runs/{job_id}").status_code == 204
    assert http.get(f"/v1/runs/{job_id}").status_code == 404
    assert not (service.runs_dir / job_id).exists()


def test_a_key_submits_once(http: httpx.Client) -> None:
    asked = {**SHORT, "priority": -100, "deadline_s": 0.01}
    headers = {"Idempotency-Key": "one"}
    first = http.post("/v1/runs", json=asked, headers=headers)
    second = http.post("/v1/runs", json=asked, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Idempotent-Replayed"] == "true"
    other = http.post("/v1/runs", json=SHORT, headers=headers)
    assert other.status_code == 422
    assert other.json()["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({}, "recipe", "either a recipe or a spec"),
        ({"recipe": "digits-lam"}, "recipe", "Did you mean digits-lamb"),
        ({"recipe": "/etc/passwd"}, "recipe", "is not a recipe"),
        ({"recipe": "digits-lamb", "set": {"batch.global_batch_size": "many"}}, "batch.global_batch_size", "whole number"),
        ({"recipe": "digits-lamb", "set": {"batch.globalbatch": 3}}, "batch.globalbatch", "Did you mean"),
        ({"recipe": "digits-lamb", "priority": 1000}, "priority", "at most 100"),
        ({"recipe": "digits-lamb", "unknown": 1}, "unknown", "is not a known key."),
        ({"recipe": "digits-lamb", "cpus": 999.0}, "cpus", "this machine has"),
        ({"recipe": "digits-lamb", "gpus": 5}, "gpus", "this machine has"),
        ({"recipe": "digits-lamb", "name": "../up"}, "name", "must be a name"),
        ({"recipe": "digits-lamb", "set": {"name": "名前"}}, "name", "cannot name a job"),
        ({"recipe": "digits-lamb", "set": {"description": "x" * 70_000}}, "spec", "larger than 64 KiB"),
        ({"recipe": "digits-lamb", "set": {"int": 1}}, "int", "not a known key"),
        ({"recipe": "digits-lamb", "set": {"seed": 10**19}}, "spec", "number beyond"),
        ({"spec": {"name": "x"}}, "dataset", "missing"),
        ({"recipe": "digits-lamb", "set": {"tracking.mlflow_uri": "http://evil"}}, "tracking.mlflow_uri", "operator"),
        ({"recipe": "digits-lamb", "set": {"model": {"entry_point": "os:system"}}}, "model.entry_point", "not among the entry points"),
        ({"recipe": "mnist-f1", "set": {"dataset.download": True}}, "dataset.download", "fetches no data sets"),
        ({"recipe": "digits-lamb", "set": {"dataset": {"name": "image-folder", "arguments": {"path": "../../etc"}}}},
         "dataset.arguments.path", "inside"),
        ({"recipe": "digits-lamb", "set": {"model.weights": "../own.pt"}}, "model.weights", "is not a file inside the server's data folder"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_why(http: httpx.Client, asked: dict[str, Any], field: str, words: str) -> None:
    for path in ("/v1/runs", "/v1/runs/plan"):
        answer = http.post(path, json=asked)
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["field"] == field
        assert words in problem["detail"]
        assert problem["request_id"] == answer.headers["x-request-id"]


def test_every_refusal_is_in_our_words(http: httpx.Client) -> None:
    half_a_letter = http.post("/v1/runs", content=b'{"recipe": "digits-lamb", "notes": "\\ud800"}', headers={"Content-Type": "application/json"})
    many = http.get("/v1/runs", params={"where": ["batch>1"] * 21})
    for answer, words in ((half_a_letter, "notes: must be text that UTF-8 can write"), (many, "where: must be at most 20 in number")):
        assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text


def test_a_plan_runs_nothing(http: httpx.Client) -> None:
    plan = http.post("/v1/runs/plan", json={"recipe": "digits-lamb", "workers": "2"}).json()
    assert plan["facts"]["world_size"] == 2
    assert plan["lines"][2] == {"what": "data", "how": "1,437 training samples, 360 test samples, 10 classes, held in memory"}
    refused = http.post("/v1/runs/plan", json={"recipe": "digits-lamb", "set": {"batch.global_batch_size": 5000}})
    assert (refused.status_code, refused.json()["field"]) == (422, "batch.global_batch_size")


def test_logs_and_files(ended: dict[str, Any], http: httpx.Client) -> None:
    log = http.get(f"/v1/runs/{ended['id']}/logs")
    assert "test accuracy" in log.text
    rest = http.get(f"/v1/runs/{ended['id']}/logs", params={"offset": 5})
    assert (rest.text, rest.headers["X-Next-Offset"]) == (log.text[5:], log.headers["X-Next-Offset"])
    files = {file["path"] for file in http.get(f"/v1/runs/{ended['id']}/artifacts").json()}
    assert {"spec.json", "summary.json", "records.jsonl", "plan.json"} <= files
    assert not any("checkpoints" in name or name.startswith(".") for name in files)
    assert json.loads(http.get(f"/v1/runs/{ended['id']}/artifacts/summary.json").text)["steps"] == STEPS


@pytest.mark.parametrize(
    "path", ["../service.sqlite", "..%2fservice.sqlite", "%2fetc%2fpasswd", ".train.lock", "nothing", "checkpoints", "a%00b", "link"]
)
def test_files_outside_a_run_are_not_there(service: Service, ended: dict[str, Any], http: httpx.Client, path: str) -> None:
    link = service.runs_dir / ended["id"] / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    answer = http.get(f"/v1/runs/{ended['id']}/artifacts/{path}")
    assert answer.status_code == 404
    assert "root:" not in answer.text


def test_lists_recipes_cluster_and_health(http: httpx.Client, ended: dict[str, Any]) -> None:
    found = http.get("/v1/runs", params={"state": "succeeded", "recipe": "digits-small-batch", "limit": 1}).json()
    assert found["items"][0]["state"] == "succeeded"
    assert http.get("/v1/runs", params={"cursor": "x"}).status_code == 422
    assert http.get("/v1/runs", params={"limit": 1000}).json()["field"] == "limit"
    assert "digits-lamb" in {recipe["name"] for recipe in http.get("/v1/recipes").json()}
    assert http.get("/v1/recipes/digits-lamb").json()["batch"]["global_batch_size"] == "full"
    assert http.get("/v1/recipes/nothing").status_code == 404
    cluster = http.get("/v1/cluster").json()
    assert (cluster["backend"], cluster["problem"]) == ("local", None)
    assert 0 <= cluster["cpus_held"] <= cluster["cpus"]
    assert http.get("/readyz").json()["status"] == "ready"
    metrics = http.get("/metrics").text
    assert 'largebatch_jobs{state="succeeded"}' in metrics
    assert 'largebatch_submits_total{kind="run"}' in metrics
    assert http.get("/nothing").headers["content-type"] == "application/problem+json"
    assert http.get("/runs/nothing", headers={"Accept": "text/html"}).status_code == 404


@pytest.mark.parametrize("name", ["q", "owner", "recipe", "state", "sort", "cursor"])
def test_sql_in_a_filter_is_a_value_that_nothing_has(http: httpx.Client, ended: dict[str, Any], name: str) -> None:
    answer = http.get("/v1/runs", params={name: "x' OR 1=1; DROP TABLE jobs; --"})
    assert answer.status_code == 422 or answer.json()["items"] == []
    assert http.get(f"/v1/runs/{ended['id']}").status_code == 200


def test_on_loopback_only_its_own_names_are_answered(http: httpx.Client) -> None:
    idle = {"recipe": "digits-small-batch", "deadline_s": 0.001}
    assert http.get("/v1/runs").status_code == 200
    assert http.get("/v1/runs", headers={"Host": "evil.example"}).status_code == 421, "a name that was pointed at us"
    assert http.post("/v1/runs", json=idle, headers={"Origin": "http://evil.example"}).status_code == 403
    assert http.post("/v1/runs", json=idle, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_client(service: Service, ended: dict[str, Any]) -> None:
    with Client(service.url) as client:
        assert client.request("GET", f"/v1/runs/{ended['id']}")["id"] == ended["id"]
        assert any(job["id"] == ended["id"] for job in client.request("GET", "/v1/runs", params={"limit": 200})["items"])
        assert "test accuracy" in client.logs("run", ended["id"])
        assert [data["step"] for name, data in client.events(ended["id"]) if name == "step"] == list(range(1, STEPS + 1))
        assert client.request("POST", "/v1/runs/plan", json={"recipe": "digits-lamb"})["facts"]["num_train_samples"] == 1437
        with pytest.raises(RemoteError, match="Did you mean digits-lamb") as refused:
            client.submit("run", {"recipe": "digits-lam"})
        assert (refused.value.status, refused.value.field) == (422, "recipe")
        with pytest.raises(RemoteError, match="there is no run"):
            client.request("GET", "/v1/runs/nothing")


def test_a_sweep(service: Service) -> None:
    """What it answers is asked in test_studies, of one that was put there."""
    carry_out(service, [0.2])
