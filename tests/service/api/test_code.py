"""Own code that comes with a job: who may send and use it, that the service itself never runs it, and jobs that do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import largebatch
from servers import Service, new_token, serving
from zips import own_code, own_spec, zipped

from largebatch.jobs.errors import InputError
from largebatch.service.api.requests import RunSubmit, job_of_run
from largebatch.service.bundle import LARGEST_BYTES, digest_of_bundle
from largebatch.service.db.tokens import ForbiddenError
from largebatch.service.settings import Settings

NAMED = {"set": {"model.entry_point": "my_code:build", "model.name": None}}
"""A recipe's change that names a person's own model."""


OPTIONS = ("--with-tokens", "--allow-code", "--max-running-per-owner", "0")


@pytest.fixture(scope="module")
def guarded(service: Service) -> Service:
    """It takes code and begins no job."""
    return service


@pytest.fixture(scope="module")
def people(guarded: Service) -> Iterator[dict[str, httpx.Client]]:
    scopes = {"root": "admin", "ann": "submit", "bob": "submit", "eye": "read"}
    secrets = {owner: new_token(guarded.runs_dir, owner, "--scope", scope) for owner, scope in scopes.items()}
    clients = {owner: httpx.Client(base_url=guarded.url, headers={"Authorization": f"Bearer {secret}"}) for owner, secret in secrets.items()}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks") / "imported"


@pytest.fixture
def anns(people: dict[str, httpx.Client], mark: Path) -> str:
    """The SHA-256 of a bundle of hers."""
    return str(people["ann"].post("/v1/code", content=own_code(mark)).json()["sha256"])


def submitted(person: httpx.Client, code: str, **more: Any) -> httpx.Response:
    return person.post("/v1/runs", json={"spec": own_spec(), "code": code, "deadline_s": 3600.0, **more})


def test_without_the_operators_word_there_is_no_own_code() -> None:
    asked = RunSubmit.model_validate({"spec": own_spec(), "code": "0" * 64})
    with pytest.raises(ForbiddenError, match="Ask its operator, who allows it with: largebatch serve --allow-code"):
        job_of_run(asked, "ann", Settings())
    assert Settings().allows_code is False
    assert job_of_run(asked, "ann", Settings(allows_code=True)).code == "0" * 64


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "sqlite:////tmp/mlflow.db", "http://127.0.0.1:5000", "/tmp/mlruns"])
def test_jobs_that_work_elsewhere_find_the_same_mlflow(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match="is relative") if "/tmp" not in uri and "http" not in uri else contextlib.nullcontext():
        assert Settings.read(allows_code=True, cpus=1.0, gpus=0, memory_gib=1.0).tracking_uri == uri
    assert Settings.read(cpus=1.0, gpus=0, memory_gib=1.0).tracking_uri == uri


def test_sent_twice_is_the_same_answer(people: dict[str, httpx.Client], mark: Path) -> None:
    packed = own_code(mark)
    first, second = (people["ann"].post("/v1/code", content=packed) for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert first.status_code == 201
    assert first.json()["sha256"] == digest_of_bundle(packed)
    assert [file["path"] for file in first.json()["files"]] == ["my_code.py", "classes.txt"]


def test_code_is_its_senders_and_an_administrator_sees_it(people: dict[str, httpx.Client], mark: Path, anns: str) -> None:
    for path in ("", "/zip"):
        assert people["bob"].get(f"/v1/code/{anns}{path}").status_code == 404
        assert people["root"].get(f"/v1/code/{anns}{path}").status_code == 200
    assert people["ann"].get(f"/v1/code/{anns}/zip").content == own_code(mark)
    assert people["bob"].get("/v1/code").json() == []
    assert anns in [bundle["sha256"] for bundle in people["root"].get("/v1/code").json()]
    assert people["eye"].post("/v1/code", content=own_code(mark)).status_code == 403
    assert people["bob"].delete(f"/v1/code/{anns}").status_code == 404
    refusals = {name: submitted(people[name], anns) for name in ("bob", "root")}
    assert (refusals["bob"].status_code, refusals["bob"].json()["field"]) == (404, "code")
    assert (refusals["root"].status_code, refusals["root"].json()["problem"]) == (403, "this bundle is ann's.")
    assert submitted(people["ann"], "f" * 64).status_code == 404
    assert submitted(people["ann"], "f" * 63).status_code == 422
    for name in ("bob", "root"):
        assert people[name].post("/v1/runs/plan", json={"spec": own_spec(), "code": anns}).status_code == refusals[name].status_code


def test_the_service_never_runs_it(people: dict[str, httpx.Client], mark: Path, anns: str) -> None:
    ann = people["ann"]
    asked = {"recipe": "digits-small-batch", **NAMED, "code": anns}
    sweep = {"sweep": {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}, **NAMED}, "code": anns}
    target = {"set": {**NAMED["set"], "stop.target_accuracy": 0.5}}
    for path, body in (("runs", asked), ("studies", {**asked, **target}), ("sweeps", sweep)):
        plan = ann.post(f"/v1/{path}/plan", json=body)
        assert plan.status_code == 200, plan.text
        assert "made when the job starts" in {line["what"]: line["how"] for line in plan.json()["lines"]}["plan"]
        job = ann.post(f"/v1/{path}", json=body)
        assert job.status_code == 202, job.text
        assert job.json()["code"] == anns
    assert ann.post("/v1/sweeps/plan", json=sweep).json()["runs"] > 1
    assert not mark.exists(), "nobody imported it"


def test_code_that_nothing_names_and_names_without_code(people: dict[str, httpx.Client], anns: str) -> None:
    needless = people["ann"].post("/v1/runs", json={"recipe": "digits-lamb", "code": anns})
    assert (needless.status_code, needless.json()["field"]) == (422, "code")
    without = people["ann"].post("/v1/runs", json={"recipe": "digits-lamb", **NAMED})
    assert (without.status_code, without.json()["field"]) == (422, "model.entry_point")
    assert "largebatch remote submit RECIPE --code FOLDER" in without.json()["hint"]
    inner = people["ann"].post("/v1/code", content=zipped(("project/my_code.py", b""))).json()["sha256"]
    misplaced = submitted(people["ann"], inner)
    assert (misplaced.status_code, misplaced.json()["hint"]) == (422, "Zip what is in the folder, not the folder.")


def test_code_stays_while_a_job_has_it(people: dict[str, httpx.Client]) -> None:
    ann = people["ann"]
    code = ann.post("/v1/code", content=zipped(("my_code.py", b"# another"))).json()["sha256"]
    job_id = submitted(ann, code).json()["id"]
    assert ann.delete(f"/v1/code/{code}").status_code == 409
    assert [job["id"] for job in ann.get(f"/v1/code/{code}").json()["used_by"]] == [job_id]
    said = {name: people[name].get(f"/v1/runs/{job_id}/next").json()["submit_command"] for name in ("ann", "root")}
    assert said["ann"].startswith("largebatch remote submit - ")
    assert said["root"].startswith(f"# Its code {code[:12]} is ann's: ask for it, and send it from a folder of yours.\nlargebatch remote submit - ")
    assert (f"--code {code}" in said["ann"], "--code FOLDER" in said["root"]) == (True, True)
    for person in people.values():
        person.post("/login", data={"token": person.headers["Authorization"].removeprefix("Bearer ")})
    again = {name: f"like={job_id}" in people[name].get(f"/runs/{job_id}", headers={"Accept": "text/html"}).text for name in ("ann", "root")}
    assert again == {"ann": True, "root": False}
    form = ann.get(f"/runs/new?like={job_id}", headers={"Accept": "text/html"}).text
    assert f"whatever stands in no field here are those of <code>{job_id}</code>" in form, "no field names its model or data"
    assert "whatever stands in no field" not in ann.get("/runs/new", headers={"Accept": "text/html"}).text
    ann.post(f"/v1/runs/{job_id}/cancel")
    assert people["root"].delete(f"/v1/code/{code}").status_code == 409, "it can be resumed"
    assert ann.delete(f"/v1/runs/{job_id}").status_code == 204
    assert ann.delete(f"/v1/code/{code}").status_code == 204
    assert ann.get(f"/v1/code/{code}").status_code == 404


def test_bodies_end_where_code_does_and_strangers_send_none(guarded: Service, people: dict[str, httpx.Client]) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2 * (LARGEST_BYTES >> 20)):
            yield bytes(1 << 20)

    large, ann = bytes(LARGEST_BYTES + 1), people["ann"]
    assert ann.post("/v1/code", content=large).status_code == 422
    assert ann.post("/v1/runs", content=bytes(2 << 20)).status_code == 413, "elsewhere as before"
    sent = ((ann, bytes(LARGEST_BYTES + (2 << 20)), 413), (ann, endless(), 413), (httpx, large, 401), (httpx, endless(), 401))
    answered = []
    for sender, content, status in sent:
        with contextlib.suppress(httpx.TransportError):  # it may be closed before all was sent
            answered.append((sender.post(f"{guarded.url}/v1/code", content=content).status_code, status))
    assert answered
    assert [status for status, _ in answered] == [status for _, status in answered]
    assert people["ann"].get("/v1/me").status_code == 200


@contextlib.contextmanager
def signed_in(guarded: Service, owner: str) -> Iterator[httpx.Client]:
    """A person's browser, without a script."""
    with httpx.Client(base_url=guarded.url) as browser:
        assert browser.post("/login", data={"token": new_token(guarded.runs_dir, owner)}).status_code == 303
        yield browser


def test_a_form_sends_code_without_a_script(guarded: Service, mark: Path) -> None:
    typed = {"recipe": "digits-small-batch", "set": "model.entry_point=my_code:build\nmodel.name=null"}
    zips = {"zip": ("mine.zip", own_code(mark), "application/zip")}
    with signed_in(guarded, "ann") as ann, signed_in(guarded, "bob") as bob:
        page = ann.post("/runs/new", data={**typed, "do": "plan"}, files=zips)
        digest = digest_of_bundle(own_code(mark))
        assert f'value="{digest}"' in page.text, "what was sent stays with the form"
        assert "made when the job starts" in page.text
        begun = ann.post("/runs/new", data={**typed, "do": "start", "code": digest}, files={"zip": ("", b"", "application/octet-stream")})
        assert begun.status_code == 303
        shown = ann.get(begun.headers["location"]).text
        assert digest in shown
        assert "classes.txt" in shown
        refused = ann.post("/runs/new", data={**typed, "do": "start"}, files={"zip": ("mine.zip", b"no zip", "application/zip")})
        assert refused.status_code == 422
        assert "is no zip file" in refused.text
        sweep = {"recipe": "digits-small-batch", "set": typed["set"], "do": "plan", "code": digest}
        assert "made when the job starts" in ann.post("/sweeps/new", data=sweep).text
        assert digest[:12] in ann.get("/code").text
        assert digest[:12] not in bob.get("/code").text


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("working"), LARGEBATCH_ALLOW_CODE="1", MLFLOW_TRACKING_URI="") as made:
        yield made


def test_a_run_trains_own_code_and_goes_on_with_it_to_a_later_end(working: Service, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    with httpx.Client(base_url=working.url) as http:
        code = http.post("/v1/code", content=own_code(mark)).json()["sha256"]
        job_id = http.post("/v1/runs", json={"spec": own_spec(), "code": code, "cpus": 1.0}).json()["id"]
        done = working.wait(job_id, "succeeded", "failed")
        assert (done["state"], done["summary"]["steps"]) == ("succeeded", 4), done
        assert (done["progress"]["total_steps"], done["progress"]["training_seconds_left"]) == (4, 0.0)

        def refused(changes: Any) -> str:
            answer = http.post(f"/v1/runs/{job_id}/resume", json=changes)
            assert answer.status_code in {409, 422}, answer.text
            return str(answer.json()["detail"])

        assert "goes on where its end is set later" in refused(None)
        assert "no more than the 1 that it has done" in refused({"set": {"stop.epochs": 1}})
        assert "cannot change in a run that goes on" in refused({"set": {"learning_rate.base": 0.1}})
        assert http.get(f"/v1/runs/{job_id}").json()["summary"] == done["summary"], "what was refused has changed nothing"

        accepted = http.post(f"/v1/runs/{job_id}/resume", json={"set": {"stop.epochs": 2.0}})
        assert (accepted.status_code, accepted.json()["state"]) == (202, "queued")
        longer = working.wait(job_id, "succeeded", "failed")
        assert (longer["state"], longer["summary"]["steps"], longer["attempt"], longer["spec"]["stop"]["epochs"]) == ("succeeded", 8, 2, 2), longer
        records = http.get(f"/v1/runs/{job_id}/records").json()["items"]
        assert [record["step"] for record in records if record["kind"] == "start"] == [0, 4], "from where it stood"
        folder = working.runs_dir / ".service" / job_id / "code"
        assert set(mark.read_text().split()) == {str(folder)}, "in the job's own folder, and nowhere else"
        assert http.delete(f"/v1/runs/{job_id}").status_code == 204
        assert not folder.parent.exists()
        assert http.delete(f"/v1/code/{code}").status_code == 204


@pytest.mark.slow
def test_the_runs_of_a_sweep_see_it(working: Service, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    fields = {"model.entry_point": "my_code:build", "model.name": None, "dataset.entry_point": "my_code:load", "dataset.name": None}
    sweep = {
        "recipe": "digits-small-batch", "search": {"trials": 1}, "repeats": 0,
        "set": {**fields, "model.arguments": {}, "stop.epochs": 1.0, "stop.target_accuracy": None, "tracking.enabled": False},
    }  # fmt: skip
    with httpx.Client(base_url=working.url) as http:
        code = http.post("/v1/code", content=own_code(mark)).json()["sha256"]
        accepted = http.post("/v1/sweeps", json={"sweep": sweep, "code": code, "cpus": 1.0})
        assert accepted.status_code == 202, accepted.text
        job_id = accepted.json()["id"]
        ended = working.wait(job_id, "succeeded", "failed", kind="sweep")
        assert (ended["state"], ended["progress"]["runs_over"]) == ("succeeded", 1), (ended, http.get(f"/v1/sweeps/{job_id}/logs").text)
    assert set(mark.read_text().split()) == {str(working.runs_dir / ".service" / job_id / "code")}


def test_the_command_sends_a_folder_once(guarded: Service, tmp_path: Path, mark: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "tests").mkdir(parents=True)
    for name in ("my_code.py", "tests/test_mine.py"):
        (mine / name).write_text("def build(num_classes): ...\n")
    secret = new_token(guarded.runs_dir, "carl")
    told = []
    for _ in range(2):
        ended = largebatch(
            "remote", "submit", "digits-lamb", "--set", "model.entry_point=my_code:build", "--set", "model.name=null", "--code", mine,
            LARGEBATCH_SERVER=guarded.url, LARGEBATCH_TOKEN=secret,
        )  # fmt: skip
        assert ended.exit_code == 0, ended.output
        told.append(ended.stderr)
    assert [words.rpartition(", ")[2] for words in (text.splitlines()[0] for text in told)] == ["sent.", "there already."]
    assert "1 file, " in told[0]
    assert "Not sent along: tests (by its name)." in told[0]
    jobs = httpx.get(f"{guarded.url}/v1/runs", headers={"Authorization": f"Bearer {secret}"}).json()["items"]
    assert len({job["code"] for job in jobs}) == 1


@pytest.mark.parametrize(
    ("folder", "entry_point", "told"),
    [
        ("mine", "elsewhere:build", "mine holds nothing of what is named: elsewhere"),
        ("mine", "broken:build", "broken.py, line 1, is no Python: "),
        ("mine", None, "names no code of your own"),
        ("none", "my_code:build", "is no folder"),
    ],
)
def test_what_the_command_does_not_send(folder: str, entry_point: str | None, told: str, guarded: Service, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_code.py").write_text("def build(num_classes): ...\n")
    (tmp_path / "mine" / "broken.py").write_text("def build(:\n")
    named = [] if entry_point is None else ["--set", f"model.entry_point={entry_point}", "--set", "model.name=null"]
    with pytest.raises(InputError, match=told):
        largebatch("remote", "submit", "digits-lamb", *named, "--code", tmp_path / folder, LARGEBATCH_SERVER=guarded.url, LARGEBATCH_TOKEN="none")


def test_the_command_says_what_is_named_and_not_there(guarded: Service, tmp_path: Path) -> None:
    (tmp_path / "my_code.py").write_text("def build(num_classes): ...\n")
    (tmp_path / "unfinished.py").write_text("def build(:\n")
    ended = largebatch(
        "remote", "submit", "digits-lamb", "--set", "model.entry_point=my_code:build", "--set", "model.name=null",
        "--set", "dataset.entry_point=timm_data:load", "--set", "dataset.name=null", "--code", tmp_path,
        LARGEBATCH_SERVER=guarded.url, LARGEBATCH_TOKEN=new_token(guarded.runs_dir, "carl"),
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    assert f"Not in {tmp_path}: timm_data. The job looks for it among what is installed." in ended.stderr
