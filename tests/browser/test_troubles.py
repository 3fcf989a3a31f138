"""What a person sees of a service that is not well or much asked, in a real Chromium: Ray and MLflow away, little disk left, a journal with a line
that is none of ours, half-sent requests on every connection that there may be, and somebody else's heavy plan first."""

import contextlib
import json
import resource
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest
from chromium import Tab
from made_records import start, step
from playwright.sync_api import expect
from ports import free_port
from servers import NO_TLS, Service, serving, small_disk
from small_runs import synthetic, wait_for
from visits import Visit

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.service.api.analysis_worker import TIMEOUT_S, TURN_S
from largebatch.service.api.requests import RunSubmit, job_of_run
from largebatch.service.job import State
from largebatch.service.settings import Settings

FILES = 300
"""That the service may open."""
HEAVY = {
    "name": "heavy", "dataset": synthetic(32, 16, (3, 224, 224)), "model": {"name": "vit_l_16"}, "batch": {"global_batch_size": 16},
    "optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.1}, "stop": {"steps": 1},
}  # fmt: skip
"""304 million parameters: its plan takes seconds."""


@pytest.fixture(scope="module")
def ailing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, nowhere = tmp_path_factory.mktemp("ailing"), f"http://127.0.0.1:{free_port()}"
    with small_disk(folder / "runs", 100), serving(folder, "--ray-address", nowhere, MLFLOW_TRACKING_URI=nowhere) as service:
        psutil.Process(service.pid).rlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
        yield service


@pytest.fixture
def visit(tab: Tab, ailing: Service) -> Iterator[Visit]:
    with tab.visit(ailing.url, 1300) as made:
        yield made
    assert made.foreign == []


def test_what_is_away_or_full_is_said_on_every_page(visit: Visit, ailing: Service) -> None:
    def checks() -> dict[str, str]:
        found: dict[str, str] = httpx.get(f"{ailing.url}/readyz", timeout=10, verify=NO_TLS).json()["checks"]
        return found

    wait_for(lambda: all("answer" in checks()[part] and "yet" not in checks()[part] for part in ("backend", "tracking")), 30)
    for path in ("/runs", "/runs/new"):
        visit.go(path)
        trouble = visit.page.locator(".trouble")
        expect(trouble).to_contain_text("Jobs are kept, but not all is well just now")
        for words in ("backend: no Ray dashboard answers", "tracking: does not answer", "MiB are free where the runs lie"):
            expect(trouble).to_contain_text(words)
    visit.refuse_barriers()
    visit.keep("troubles")


def test_a_line_of_the_journal_that_is_none_of_ours_is_said(visit: Visit, ailing: Service) -> None:
    asked = RunSubmit.model_validate({"recipe": "digits-small-batch", "cpus": 1.0})
    job = job_of_run(asked, "local", Settings(cpus=2.0)).model_copy(update={"state": State.CANCELLED, "attempt": 1})
    (ailing.runs_dir / job.id).mkdir()
    with Journal(ailing.runs_dir / job.id) as journal:
        journal.write(start())
        journal.write(step(1))
    with (ailing.runs_dir / job.id / JOURNAL).open("ab") as file:
        file.write(b"[" * 100_000 + b"\n")
    ailing.put(job)
    visit.go(f"/runs/{job.id}")
    expect(visit.page.locator("#notices")).to_contain_text("1 line of the journal is left out")
    expect(visit.page.locator("#c-loss .trace")).to_have_count(1)


def test_pages_come_while_half_sent_requests_are_held(visit: Visit, ailing: Service) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(3 * FILES):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", ailing.port), timeout=5))
            with contextlib.suppress(OSError):  # it may be closed already, for those that came after it
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            if number % FILES == FILES - 1:
                visit.go("/runs/new")
                visit.page.get_by_label("Recipe", exact=True).select_option("digits-small-batch")
                expect(visit.page.get_by_label("Global batch size")).to_have_value("32")


def test_a_plan_says_what_it_waits_for_and_its_deadline(visit: Visit, ailing: Service) -> None:
    body = json.dumps({"spec": HEAVY}).encode()
    with socket.create_connection(("127.0.0.1", ailing.port)) as connection:
        connection.sendall(b"POST /v1/runs/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        visit.go("/runs/new")
        visit.page.get_by_role("button", name="Show the plan").click()
        planning = visit.page.locator("#planning")
        expect(planning).to_contain_text("Waits for its turn: 1 other question is before it.")
        expect(planning).to_contain_text(f"within {TURN_S:g} s, or it is given up; then it takes {TIMEOUT_S:g} s at most")
        expect(visit.page.get_by_role("button", name="Show the plan")).to_be_disabled()
        visit.refuse_barriers()
        visit.keep("planning")
