"""Lines in a journal or a ledger that are none of ours: skipped, counted and said, and everything else is answered."""

import json
from pathlib import Path

import httpx
import pytest
from put_jobs import put_ended
from servers import NO_TLS, Service

from largebatch.jobs.run.json_lines import parse_object
from largebatch.service.db.engine import open_database
from largebatch.service.settings import Settings
from largebatch.tuning.sweep.ledger import LEDGER

ODD = {
    "nesting without end": b"[" * 100_000,
    "a kind that is a list": b'{"kind": ["step"]}',
    "a kind that is a mapping": b'{"kind": {"of": "step"}}',
    "half of a pair of surrogates": b'{"kind": "notice", "step": 1, "text": "\\ud800"}',
    "no UTF-8": b'\xff\xfe{"kind": "step"}',
    "a number that is none": b'{"kind": "evaluation", "scores": {"loss": NaN}}',
    "a number beyond any": b'{"kind": "step", "step": 1, "loss": 1e400}',
    "a text of megabytes": b'{"kind": "notice", "step": 1, "text": "' + b"x" * (2 << 20) + b'"}',
    "a number of thousands of digits": b'{"kind": "step", "step": ' + b"9" * 5000 + b"}",
}


OPTIONS = ("--max-running-per-owner", "0")
"""It begins nothing: what is read was put there."""


@pytest.fixture(scope="module")
def job_id(service: Service) -> str:
    return put_ended(service, **{"stop.epochs": 1.0, "stop.target_accuracy": None})


@pytest.mark.parametrize("name", ODD)
def test_an_odd_line_costs_itself_alone(name: str, service: Service, job_id: str) -> None:
    journal = service.runs_dir / job_id / "records.jsonl"
    whole = journal.read_bytes()
    run = f"{service.url}/v1/runs/{job_id}"
    before = httpx.get(f"{run}/records", verify=NO_TLS).json()
    assert before["num_unreadable"] == 0
    journal.write_bytes(whole + ODD[name] + b"\n")
    try:
        after = httpx.get(f"{run}/records", verify=NO_TLS).json()
        assert (after["items"], after["num_unreadable"]) == (before["items"], 1)
        assert httpx.get(f"{run}/series", verify=NO_TLS).status_code == 200
        assert httpx.get(f"{service.url}/runs/{job_id}", headers={"Accept": "text/html"}, verify=NO_TLS).status_code == 200
        events = httpx.get(f"{run}/events", verify=NO_TLS).text
        told = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
        assert len([one for one in told if "kind" in one and "step" in one]) >= len(before["items"]) - 1
        assert httpx.get(f"{service.url}/readyz", verify=NO_TLS).json()["checks"]["watcher"] == "ok"
    finally:
        journal.write_bytes(whole)


def test_an_answer_holds_about_a_mebibyte_and_the_next_goes_on(service: Service, job_id: str) -> None:
    """Answers that nobody reads wait in memory, one on each connection."""
    journal = service.runs_dir / job_id / "records.jsonl"
    whole = journal.read_bytes()
    notices = [{"kind": "notice", "step": 1, "text": f"{number} " + "x" * 100_000} for number in range(40)]
    journal.write_bytes(whole + b"".join(json.dumps(notice).encode() + b"\n" for notice in notices))
    try:
        after, told, sizes, is_complete = len(whole), list[dict[str, object]](), list[int](), False
        while not is_complete:
            answer = httpx.get(f"{service.url}/v1/runs/{job_id}/records", params={"after": after, "limit": 5000}, verify=NO_TLS)
            after, is_complete = answer.json()["next_after"], answer.json()["is_complete"]
            told, sizes = told + answer.json()["items"], [*sizes, len(answer.content)]
        assert told == notices
        assert max(sizes) < 1.2 * (1 << 20)
        assert len(sizes) < 6
    finally:
        journal.write_bytes(whole)


def test_an_odd_line_of_a_sweep(service: Service) -> None:
    asked = {
        "sweep": {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]},
                  "set": {"stop.epochs": 1.0, "tracking.enabled": False}},
    }  # fmt: skip
    answer = httpx.post(f"{service.url}/v1/sweeps", json=asked, verify=NO_TLS, timeout=30)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    httpx.post(f"{service.url}/v1/sweeps/{job_id}/cancel", verify=NO_TLS)
    service.wait(job_id, "cancelled", "succeeded", "failed", kind="sweep")
    folder = service.runs_dir / job_id
    folder.mkdir(exist_ok=True)
    before = httpx.get(f"{service.url}/v1/sweeps/{job_id}/records", verify=NO_TLS).json()
    with (folder / LEDGER).open("ab") as ledger:
        ledger.write(b"".join(line + b"\n" for line in [*ODD.values(), b'{"number": "one"}']))
    assert httpx.get(f"{service.url}/v1/sweeps/{job_id}/records", verify=NO_TLS).json() == before


def test_what_an_object_of_a_line_is() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00", "b": 1e300}') == {"a": "\U0001f600", "b": 1e300}
    assert all(parse_object(line) is None for line in (b"[1]", b'{"a": 1', b'{"a": Infinity}', b'{"\\udc00": 1}'))


class TestSmall:
    @pytest.mark.parametrize("body", [b'{"recipe": ', b"\xff", b"[1,2", b'{"recipe": "a", "recipe": "b"}'])
    def test_what_is_no_json_is_said_so(self, body: bytes, service: Service) -> None:
        answer = httpx.post(f"{service.url}/v1/runs", content=body, headers={"Content-Type": "application/json"}, verify=NO_TLS)
        assert (answer.status_code, answer.json()["title"]) == (400, "Not JSON")

    def test_a_slash_too_many_leads_on_within_whatever_name_a_proxy_gives(self, service: Service) -> None:
        answer = httpx.get(f"{service.url}/v1/runs/?limit=3", verify=NO_TLS)
        assert (answer.status_code, answer.headers["Location"]) == (307, "/v1/runs?limit=3")
        for odd in ("%E2%98%83", "%00", "%0d%0aa:%20b", "a%20b"):
            answer = httpx.get(f"{service.url}/v1/runs/{odd}/?q=%E2%98%83", verify=NO_TLS)
            assert (answer.status_code, answer.headers["Location"].casefold()) == (307, f"/v1/runs/{odd}?q=%E2%98%83".casefold())
        assert "Traceback" not in service.log
        for path in ("//elsewhere.example/", "/nothing/", "/runs//elsewhere.example/"):
            assert httpx.get(f"{service.url}{path}", verify=NO_TLS).status_code == 404

    def test_the_database_is_its_owners_alone(self, service: Service) -> None:
        files = sorted(service.runs_dir.glob("service.sqlite*"))
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == dict.fromkeys((path.name for path in files), "0o600")

    def test_a_database_of_before_becomes_its_owners_alone(self, tmp_path: Path) -> None:
        for _ in range(2):
            open_database(Settings(runs_dir=tmp_path)).dispose()
            file = tmp_path / "service.sqlite"
            assert oct(file.stat().st_mode & 0o777) == "0o600"
            file.chmod(0o644)
