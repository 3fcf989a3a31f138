"""The OpenAPI document: no request breaks what it promises, and the client that a public generator makes of it works."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from put_jobs import put_ended
from servers import Service, new_token, serving

OPTIONS = ("--with-tokens", "--max-running-per-owner", "0")


@pytest.fixture(scope="module")
def call(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """`call("runs.submit_run", ...)`: one function of the generated package, with a token; returns the parsed body."""
    token = new_token(service.runs_dir, "alice", "--scope", "submit")
    folder = tmp_path_factory.mktemp("client")
    programs = Path(sys.executable).parent
    assert httpx.get(f"{service.url}/openapi.json", timeout=60).status_code == 200  # written for the first time: longer than a generator waits
    generate = [programs / "openapi-python-client", "generate", "--url", f"{service.url}/openapi.json", "--output-path", folder / "made"]
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}  # its formatter is there
    done = subprocess.run(generate, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert (done.returncode, "arning" in done.stdout + done.stderr) == (0, False), (
        "nothing of the document was left out: " + done.stdout + done.stderr
    )
    sys.path.insert(0, str(folder / "made"))
    with importlib.import_module("largebatch_client").AuthenticatedClient(base_url=service.url, token=token) as client:

        def called(name: str, *arguments: Any, **named: Any) -> Any:
            return importlib.import_module(f"largebatch_client.api.{name}").sync(*arguments, client=client, **named)

        yield called
    sys.path.remove(str(folder / "made"))


def body(kind: str, **given: Any) -> Any:
    """A request's body, of the type that was generated for it."""
    return getattr(importlib.import_module("largebatch_client.models"), kind).from_dict(given)


def test_a_run_from_recipe_to_summary(call: Callable[..., Any], service: Service) -> None:
    """The service begins none: what ends well was put there."""
    assert "digits-lamb" in [recipe.name for recipe in call("recipes.list_recipes")]
    asked = body("RunSubmit", recipe="digits-lamb", set={"stop.epochs": 3, "tracking.enabled": False}, cpus=1.0)
    assert call("runs.plan_run", body=asked).facts["total_steps"] == 3
    job = call("runs.submit_run", body=asked, idempotency_key="once")
    assert call("runs.submit_run", body=asked, idempotency_key="once").id == job.id
    assert (call("runs.show_run", job.id).state, call("runs.cancel_run", job.id).state) == ("queued", "cancelled")
    ended = put_ended(service, "digits-lamb", "alice", **{"stop.epochs": 3})
    shown = call("runs.show_run", ended)
    assert (shown.state, shown.outcome, shown.summary["steps"], shown.owner) == ("succeeded", "completed", 3, "alice")
    records = call("runs.records_run", ended)
    assert [record["step"] for record in records.items if record["kind"] == "step"] == [1, 2, 3]
    assert "summary.json" in [artifact.path for artifact in call("runs.artifacts_run", ended)]

    first = call("runs.list_run", limit=1)
    second = call("runs.list_run", limit=1, cursor=first.next_cursor)
    assert [page.items[0].id == job.id for page in (first, second)] == [False, True]
    assert second.next_cursor is None


def test_a_refusal_says_which_field_and_what_to_do(call: Callable[..., Any]) -> None:
    refused = call("runs.submit_run", body=body("RunSubmit", recipe="digits-lamb", set={"optimizer.momentun": 0.9}))
    assert (refused.status, refused.field, refused.hint) == (422, "optimizer.momentun", "Did you mean momentum?")
    assert call("runs.show_run", "nothing").status == 404
    assert call("tokens.create_token", body=body("NewToken", scope="admin")).status == 403, "not with a token that may submit"


def test_a_sweep_is_planned(call: Callable[..., Any]) -> None:
    sweep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}
    assert call("sweeps.plan_sweep", body=body("SweepSubmit", sweep=sweep)).runs == 2


def test_a_path_says_which_methods_it_has(service: Service) -> None:
    """Those of the document, also where another path's parameter would stand for it: /v1/runs/add and /v1/runs/{job_id}."""
    headers = {"Authorization": f"Bearer {new_token(service.runs_dir, 'alice', '--scope', 'read')}"}
    paths = httpx.get(f"{service.url}/openapi.json", headers=headers, timeout=60).json()["paths"]
    refused = {path: httpx.options(service.url + path.replace("{", "").replace("}", ""), headers=headers) for path in paths}
    assert {path: (answer.status_code, answer.headers["Allow"]) for path, answer in refused.items()} == {
        path: (405, ", ".join(sorted(map(str.upper, methods)))) for path, methods in paths.items()
    }


STREAMS = ["events", "events_run", "events_sweep"]
"""They answer for as long as somebody listens; test_api hears them out."""
REVOKES = "revoke_token"
"""It would revoke the token that the requests carry; test_security has it."""


@pytest.mark.parametrize("seconds", [6, pytest.param(150, marks=pytest.mark.slow)])
def test_no_request_breaks_what_the_document_promises(tmp_path: Path, seconds: int) -> None:
    """As many as the seconds hold: examples and edge cases first, then random ones; the slow test has time for more.

    The process that plans imports torch for the first plan and more for a sweep's, longer than schemathesis waits: both are asked for before.
    """
    with serving(tmp_path, "--with-tokens", "--allow-code", "--max-running-per-owner", "0") as service:
        token = new_token(service.runs_dir, "root", "--scope", "admin")
        headers = {"Authorization": f"Bearer {token}"}
        for jobs, body_of_one in (("runs", {"recipe": "digits-lamb"}), ("sweeps", {"sweep": {"recipe": "digits-small-batch"}})):
            assert httpx.post(f"{service.url}/v1/{jobs}/plan", json=body_of_one, headers=headers, timeout=120).status_code == 200
        command = [
            Path(sys.executable).with_name("schemathesis"), "--config-file", Path(__file__).with_name("schemathesis.toml"),
            "run", f"{service.url}/openapi.json", "--header", f"Authorization: Bearer {token}",
            *(part for name in (*STREAMS, REVOKES) for part in ("--exclude-operation-id", name)),
            "--checks", "all", "--request-timeout", "60",
            "--max-examples", "4", "--max-time", str(seconds), "--generation-deterministic", "--no-shrink", "--no-color", "--continue-on-failure",
        ]  # fmt: skip
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=280)
        assert found.returncode == 0, found.stdout.partition(" WARNINGS ")[0][-6000:]
        assert "No operations" not in found.stdout
        assert "status=5" not in service.log
