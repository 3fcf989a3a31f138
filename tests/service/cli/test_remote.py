"""`largebatch remote`, `db`, `token` and `serve`, as a person types them."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import torch
import yaml
from command_line import largebatch, not_served, said
from forked import Forked
from servers import IMPORTS, Service, new_token
from small_runs import ROOT

from largebatch import Recorder
from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.service.api.requests import SweepSubmit, job_of_sweep
from largebatch.service.cli.commands.remote import inside
from largebatch.service.cli.tables import print_log
from largebatch.service.client import Client, configured
from largebatch.service.job import State
from largebatch.service.settings import Settings

QUICK = ["--set", "stop.epochs=1", "--set", "tracking.enabled=false", "--cpus", "1"]


def remote(service: Service, *arguments: object, code: int = 0) -> str:
    ended = largebatch("remote", *arguments, LARGEBATCH_SERVER=service.url)
    assert ended.exit_code == code, ended.output
    return ended.output


def test_a_run_from_submit_to_delete(service: Service, tmp_path: Path) -> None:
    asked = ["remote", "submit", "digits-small-batch", *QUICK, "--set", "batch.global_batch_size=full", "--json", "--follow"]
    submitted = largebatch(*asked, LARGEBATCH_SERVER=service.url)
    job = json.loads(submitted.stdout)
    assert (job["state"], job["outcome"]) == ("succeeded", job["summary"]["outcome"]), "followed to its end; and JSON is all of standard output"
    assert "test accuracy" in submitted.stderr
    job_id = job["id"]
    assert "test accuracy" in remote(service, "follow", job_id)
    (row,) = [line for line in remote(service, "list").splitlines() if line.startswith(job_id)]
    assert " 1437 " in row, "as many as the training set has, once that is known"
    assert json.loads(remote(service, "show", job_id))["state"] == "succeeded"
    assert json.loads(remote(service, "list", "--json", "--state", "succeeded"))["items"][0]["id"] == job_id
    log = remote(service, "logs", job_id)
    assert "test accuracy" in log
    assert (re.search(r"outcome +steps", log) is not None, '{"run_id"' in log) == (True, False), "the summary is a table, as `train` has it"
    advised = remote(service, "next", job_id)
    assert f"largebatch remote resume {job_id} --set stop.epochs=2.0\n# The same once more:\nlargebatch remote submit digits-small-batch" in advised
    folder = tmp_path / "made" / "here"
    remote(service, "download", job_id, "--output", folder)
    assert (folder / "records.jsonl").read_bytes() == (service.runs_dir / job_id / "records.jsonl").read_bytes()
    largebatch("export", service.runs_dir / job_id, "--output", tmp_path / "expected.safetensors")
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["here"], "no half-fetched folder stays"
    remote(service, "download", job_id, "--best", "--output", tmp_path / "best")
    with pytest.raises(InputError, match="is there already"):
        remote(service, "download", job_id, "--output", folder)
    assert "deleted" in remote(service, "delete", job_id)
    with pytest.raises(LargebatchError, match="there is no run"):
        remote(service, "download", job_id, "--output", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    with pytest.raises(LargebatchError, match="there is no run"):
        remote(service, "show", job_id)


def test_what_people_say_of_a_run(service: Service) -> None:
    """Without the service beginning any: each is over before its turn."""
    ids = [httpx.post(f"{service.url}/v1/runs", json={"recipe": "digits-lamb", "deadline_s": 0.001, "tags": ["old"]}).json()["id"] for _ in range(2)]
    for job_id in ids:
        service.wait(job_id, "failed")
    short = ids[0].rpartition("-")[2]
    told = remote(service, "edit", short, "--name", "The best so far", "--tag", "paper", "--tag", "b2", "--notes", "Seen in July", "--share")
    assert told == f"{ids[0]}: The best so far, shared with main #paper #b2\n"
    assert remote(service, "edit", ids[0], "--private", "--tag", "") == f"{ids[0]}: The best so far, private\n"
    assert json.loads(remote(service, "show", short))["notes"] == "Seen in July"
    for where, found in (("tag=old", ids[1:]), ("optimizer=lamb", ids), ("rate>1", []), ("name=The best so far", ids[:1])):
        listed = json.loads(remote(service, "list", "--json", "--where", where, "--where", "state=failed", "--sort", "created_at"))
        assert [one["id"] for one in listed["items"] if one["id"] in ids] == found, where
    with pytest.raises(LargebatchError, match="Did you mean rate"):
        remote(service, "list", "--where", "rat>1")
    assert remote(service, "whoami") == "local, scope admin, project main (this service shares nothing)\n"
    assert remote(service, "delete", *ids).count("deleted") == 2


def test_a_run_that_was_trained_elsewhere_is_added(service: Service, tmp_path: Path) -> None:
    sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    with Recorder(model="net", dataset="data", optimizer=sgd, global_batch_size=8, num_train_samples=16, output_dir=tmp_path) as recorder:
        recorder.evaluation({"accuracy": 0.5})
    told = remote(service, "add", recorder.run_dir, recorder.run_dir).splitlines()
    job_id = told[0].removeprefix(f"{recorder.run_dir}: ")
    assert told == [f"{recorder.run_dir}: {job_id}"] * 2
    assert [line.split()[2] for line in remote(service, "list").splitlines() if line.startswith(job_id)] == ["succeeded"]
    assert remote(service, "next", job_id) == "# Another program's loop has trained it: run that.\n"
    (tmp_path / "records.jsonl").symlink_to(recorder.run_dir / "records.jsonl")
    (tmp_path / "empty").mkdir()
    wrong = {"nothing": "nothing is not a folder", "empty": "empty is not a run's folder: it has no spec.json", "": "is a link"}
    for folder, problem in wrong.items():
        with pytest.raises(InputError, match=f"^RUN_DIR: .*{problem}"):  # what was typed
            remote(service, "add", tmp_path / folder)


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../up"])
def test_a_file_that_would_lie_outside_is_not_fetched(name: str, tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="lies outside"):
        inside(tmp_path / "here", name)


def test_a_file_of_ones_own(service: Service, tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "recipes" / "digits-small-batch.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**document, "seed": 7}))
    told = remote(service, "submit", tmp_path / "mine.yaml", *QUICK)
    job_id = told.removeprefix("Accepted: ").strip()
    assert "asked to stop" in remote(service, "cancel", job_id)
    job = json.loads(remote(service, "show", job_id))
    assert (job["name"], job["spec"]["seed"]) == ("mine", 7)
    service.wait(job_id, "cancelled", "succeeded")


def test_a_list_of_runs_says_that_there_are_sweeps_and_studies(service: Service) -> None:
    """None of them begins: its time is over before its turn."""
    sweep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}
    requests = {"sweeps": {"sweep": sweep}, "studies": {"recipe": "digits-small-batch", "budget_s": 120}}
    for plural, body in requests.items():
        httpx.post(f"{service.url}/v1/{plural}", json={**body, "deadline_s": 0.001}).raise_for_status()
    totals = {plural: httpx.get(f"{service.url}/v1/{plural}?total=true").json()["total"] for plural in requests}
    (told,) = [line for line in remote(service, "list").splitlines() if line.startswith("Not among these runs: ")]
    for plural, total in totals.items():
        assert f"{total} {plural if total > 1 else plural.replace('ies', 'y').removesuffix('s')} (--{plural})" in told
    assert "Not among" not in remote(service, "list", "--studies")


@pytest.mark.parametrize(("options", "listing"), [((), "list, or GET /v1/runs"), (("--study",), "list --studies, or GET /v1/studies")])
def test_a_job_that_is_not_there_says_what_lists_those_that_are(service: Service, options: tuple[str, ...], listing: str) -> None:
    with pytest.raises(LargebatchError, match=f"'rent'. largebatch remote {listing}, lists yours"):
        remote(service, "show", "rent", *options)


def test_plans_run_nothing(service: Service, tmp_path: Path) -> None:
    def listed(option: str) -> list[str]:
        return [job["id"] for job in json.loads(remote(service, "list", option, "--json"))["items"]]

    before = listed("--sweep")
    assert "data: 1,437 training samples" in remote(service, "plan", "digits-lamb")
    sweep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}, "repeats": 2}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert "runs: 4: 2 groups, 1 searched and 1 repeated in each" in remote(service, "plan", tmp_path / "sweep.yaml", "--sweep")
    found = json.loads(remote(service, "plan", tmp_path / "sweep.yaml", "--sweep", "--json"))
    assert (found["runs"], found["spec"]["repeats"], found["base"]["name"]) == (4, 2, "digits-small-batch")
    assert found["groups"] == [{"batch.global_batch_size": 32}, {"batch.global_batch_size": 64}]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "each": {"batch.global_batch_size": [32, 5000]}}))
    with pytest.raises(LargebatchError, match="more than the 1437 samples") as refused:
        remote(service, "plan", tmp_path / "sweep.yaml", "--sweep")
    assert refused.value.field == "batch.global_batch_size"
    assert listed("--sweep") == listed("--sweeps") == before


def test_a_sweep_by_its_name_and_by_its_file(service: Service, tmp_path: Path) -> None:
    (tmp_path / "my-sweep.yaml").write_text("recipe: digits-small-batch\neach: {batch.global_batch_size: [32, 64]}\n")
    for sweep, name in (("digits-batches", "digits-batches"), (str(tmp_path / "my-sweep.yaml"), "my-sweep")):
        job = json.loads(remote(service, "submit", sweep, "--sweep", "--priority", "-100", "--json"))
        assert (job["kind"], job["name"]) == ("sweep", name)
        remote(service, "cancel", job["id"], "--sweep")
        service.wait(job["id"], "cancelled", kind="sweep")
        with pytest.raises(LargebatchError, match=r"it is a sweep.*--sweep"):
            remote(service, "show", job["id"])
        remote(service, "delete", job["id"], "--sweep")
    assert "groups" in remote(service, "plan", "digits-batches", "--sweep")
    (tmp_path / "mine.yaml").write_text("recipe: own.yaml\neach: {batch.global_batch_size: [32, 64]}\n")
    (tmp_path / "own.yaml").write_text((ROOT / "recipes" / "digits-small-batch.yaml").read_text())
    for arguments, words in (
        (["digits-batches"], "Say so with --sweep"),
        (["digits-lamb", "--sweep"], "Did you mean digits-batches"),
        ([str(tmp_path / "mine.yaml"), "--sweep"], "own.yaml is a file of yours.*largebatch sweep"),
        (["not-there.yaml"], "neither a file nor a recipe"),
    ):
        with pytest.raises(LargebatchError, match=words):
            remote(service, "submit", *arguments)


@pytest.mark.parametrize(("sweep", "groups"), [("digits-batches", 4), ("my.yaml", 2)])
def test_a_local_sweep_says_what_it_would_do_as_json(sweep: str, groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("recipe: digits-lamb\neach: {batch.global_batch_size: [32, full]}\nrepeats: 2\n")
    told = largebatch("sweep", sweep, "--dry-run", "--json").stdout
    plan = json.loads(told)
    assert len(plan["groups"]) == groups
    assert plan["spec"]["recipe"] == plan["base"]["name"]
    said = largebatch("sweep", sweep, "--dry-run").stdout
    assert said.splitlines() == [f"{line['what']}: {line['how']}" for line in plan["lines"]]
    assert f"runs: {plan['runs']}: {groups} groups" in said


def put_sweep(service: Service, state: State, reason: str | None) -> str:
    """A sweep that stands there without any run."""
    sweep = SweepSubmit.model_validate({"sweep": {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}})
    job = job_of_sweep(sweep, "local", Settings(cpus=2.0)).model_copy(update={"state": state, "reason": reason, "attempt": 1})
    (service.runs_dir / job.id).mkdir()
    service.put(job)
    return job.id


@pytest.mark.parametrize("state", [State.FAILED, pytest.param(State.CANCELLED, marks=pytest.mark.slow)])
def test_a_sweep_that_is_over_without_an_answer_says_why(service: Service, state: State) -> None:
    job_id = put_sweep(service, state, "DataError: dataset.name: MNIST is not in data.")
    for what in ("advice", "findings", "report", "frontier"):
        answer = httpx.get(f"{service.url}/v1/sweeps/{job_id}/{what}", timeout=60)  # the first to ask waits for the analysis' imports
        assert answer.status_code == 409
        said = answer.json()["detail"]
        assert f"is over ({state}), without" in said
        assert "MNIST is not in data" in said
        assert "resume it" in said
        assert "later" not in said, "waiting does not help"
    with pytest.raises(LargebatchError, match="MNIST is not in data"):
        remote(service, "advice", job_id)


def test_own_code_that_is_not_allowed_says_how_to_allow_it(service: Service, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "dataset: {name: digits}\nmodel: {entry_point: 'my_code:build'}\nbatch: {global_batch_size: 32}\n"
        "optimizer: {name: sgd}\nlearning_rate: {base: 0.1}\nstop: {epochs: 1}\n"
    )
    with pytest.raises(LargebatchError, match="largebatch serve --entry-point my_code:build") as refused:
        remote(service, "submit", tmp_path / "mine.yaml")
    assert refused.value.field == "model.entry_point"
    assert "Allowed: none." in str(refused.value)


def test_what_the_service_refuses_is_one_sentence(service: Service) -> None:
    with pytest.raises(LargebatchError, match="Did you mean digits-lamb") as refused:
        remote(service, "submit", "digits-lam")
    assert refused.value.exit_code == 2
    with pytest.raises(LargebatchError, match=r"form key\.sub=value"):
        remote(service, "submit", "digits-lamb", "--set", "x")


def test_a_service_that_is_not_there() -> None:
    with pytest.raises(FaultError, match=r"http://127\.0\.0\.1:9 does not answer"), Client("http://127.0.0.1:9", tries=2) as client:
        client.request("GET", "/v1/runs")


def test_where_server_and_token_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="--server: is missing"):
        configured(None, None)
    path = tmp_path / ".config" / "largebatch" / "remote.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"server": "http://a", "token": "lb_x"}')
    path.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        configured(None, None)
    path.chmod(0o600)
    assert configured(None, None) == ("http://a", "lb_x")
    assert configured("http://b", "lb_y") == ("http://b", "lb_y")
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        configured(None, None)


def run(*arguments: str) -> tuple[int | None, str, str]:
    """The exit code of a command in a process of its own, and what it says on both streams."""
    command = Forked("-m", "largebatch", *arguments, usual_imports=IMPORTS)
    out, err = command.communicate(60)
    return command.returncode, out, err


def test_the_operators_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ("--runs-dir", str(tmp_path))
    assert "revision 0007 (was empty)" in run("db", "upgrade", *runs)[1]
    _, out, _ = said(capsys, "db", "upgrade", *runs)
    assert out.strip().endswith("revision 0007.")
    _, out, err = said(capsys, "token", "create", "ann", "--scope", "read", "--name", "laptop", "--project", "vision", *runs)
    assert out.startswith("lb_")
    assert "shown only now" in err
    assert (err.strip().endswith("types next: export LARGEBATCH_TOKEN=TOKEN"), out.strip() in err) == (True, False), "no log of a script holds it"
    (token,) = json.loads(said(capsys, "token", "list", "--json", *runs)[1])
    assert (token["owner"], token["scope"], token["name"], token["project"]) == ("ann", "read", "laptop", "vision")
    assert "is revoked" in said(capsys, "token", "revoke", token["id"], *runs)[1]
    assert "ann" in said(capsys, "token", "list", *runs)[1]
    for arguments, words in (
        (("token", "revoke", token["id"], *runs), "no valid token"),
        (("token", "create", "a b", *runs), "cannot be an owner's name"),
        (("token", "create", "ann", "--scope", "root", *runs), "none of read, submit, admin"),
        (("db", "upgrade", "--database-url", "mysql://x"), "not supported"),
        (("db", "upgrade", "--database-url", "what"), "not a database's address"),
    ):
        code, _, err = said(capsys, *arguments)
        assert code == 2, err
        assert words in err
        assert "Traceback" not in err


def test_a_foreign_address_is_not_served(tmp_path: Path) -> None:
    new_token(tmp_path, "ann")
    code, _, err = run("serve", "--port", "1", "--host", "203.0.113.1", "--runs-dir", str(tmp_path))
    assert code == 2, err
    assert "cannot be listened on" in err
    assert "Traceback" not in err


def test_an_old_schema_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = not_served(capsys, "--database-url", f"sqlite:///{tmp_path}/empty.sqlite", "--runs-dir", tmp_path, "--port", "0")
    assert (code, "Run: largebatch db upgrade" in err) == (2, True), err


def test_a_database_that_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = not_served(capsys, "--database-url", "postgresql://me:hidden-7@127.0.0.1:9/x", "--runs-dir", tmp_path, "--port", "0")
    assert (code, "database: does not answer" in err, "hidden-7" in err) == (1, True, False), err


@contextmanager
def answering(body: bytes, **headers: str) -> Iterator[str]:
    """The address of a server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_stream_that_is_kept_alive_has_no_event_in_between() -> None:
    stream = b'id: 1\nevent: job\ndata: {"state": "running"}\n\n: ping\n\nid: 2\nevent: over\ndata: {}\n\n'
    with answering(stream, Content_Type="text/event-stream") as address, Client(address) as client:
        assert list(client.events("a")) == [("job", {"state": "running"})]


def test_a_colleagues_run_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """An escape sequence may set the title, the clipboard or what the next command is taken for."""
    text = "\x1b]0;owned\x07\x9b2J\tn\u00f6 12%\r100%\n"
    notice = json.dumps({"text": text})
    with answering(f"event: notice\ndata: {notice}\n\nevent: over\ndata: {{}}\n\n".encode(), Content_Type="text/event-stream") as address:
        assert "\\x1b]0;owned\\x07\\x9b2J\tn\u00f6 12%" in said(capsys, "remote", "follow", "a", "--server", address)[2]
    print_log(text)
    assert capsys.readouterr().out == "\\x1b]0;owned\\x07\\x9b2J\tn\u00f6 12%\r100%\n"
