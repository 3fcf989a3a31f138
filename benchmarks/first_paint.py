"""When a page shows its first contents in a real Chromium, with 10,000 stored runs: the list of runs, and the page of one.

From the navigation's start to what the browser itself calls first-contentful-paint; each visit in a context of its own, so nothing is cached,
and once more in the same one, as somebody who goes from page to page.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _tests_path  # noqa: F401 - where servers are found
from _report import parser, publish, spread
from playwright.sync_api import Browser, sync_playwright
from servers import Service, serving

from largebatch.jobs.spec.read import read_spec
from largebatch.service.db.engine import connect, upgrade, writing
from largebatch.service.db.tables import jobs
from largebatch.service.job import Job, Kind, State

STORED = 10_000
LIMIT_MS = 300.0
READ_MS = 1000.0
"""How long a visitor looks at a page before going on: its scripts are there by then."""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
ANSWERED = "performance.getEntriesByType('navigation')[0].responseEnd"
PAGES = {"runs": "/runs", "runs, filtered and sorted": "/runs?q=batch%3E%3D64&sort=-score", "one run": f"/runs/run-{STORED - 1:06}"}


def main() -> None:
    """Measure, print."""
    arguments = parser(__doc__, repetitions=20)
    given = arguments.parse_args()
    with _served() as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"])
        rows = [row for what, path in PAGES.items() for row in _rows(browser, what, service.url + path, given)]
        rows += _rows(browser, "a page of one word, for comparison", "data:text/html,<p>largebatch", given)[:1]
        browser.close()
    notes = [f"{STORED:,} stored runs, SQLite, one visitor on loopback, a new browser context for each visit and its *again*; the first is left out."]
    publish("First contents of a page", rows, notes, given)


def _rows(browser: Browser, what: str, address: str, given: argparse.Namespace) -> list[dict[str, str]]:
    """Of first visits, and of second ones."""
    _, *visits = [_visits_ms(browser, address) for _ in range(given.repetitions + 1)]
    return [_row(name, list(of_one)) for name, of_one in zip((what, f"{what}, again"), zip(*visits, strict=True), strict=True)]


def _row(what: str, visits: list[tuple[float, float]]) -> dict[str, str]:
    paints, answers = [paint for paint, _ in visits], [answer for _, answer in visits]
    within = f"{sum(paint <= LIMIT_MS for paint in paints)} of {len(paints)}"
    told = {"answered, ms": spread(answers, ".0f"), "first contents, ms": spread(paints, ".0f"), "longest, ms": f"{max(paints):.0f}"}
    return {"page": what, **told, f"within {LIMIT_MS:.0f} ms": within}


def _visits_ms(browser: Browser, address: str) -> list[tuple[float, float]]:
    """Returns: the first contents, and the last byte of the page, at the first visit and at the second."""
    context, visits = browser.new_context(viewport={"width": 1300, "height": 900}), []
    page = context.new_page()
    for _ in range(2):
        page.goto(address)
        while (paint := page.evaluate(PAINT)) is None:  # the page's policy lets no string be waited for
            page.wait_for_timeout(20)
        visits.append((float(paint), float(page.evaluate(ANSWERED))))
        page.wait_for_timeout(READ_MS)
    context.close()
    return visits


@contextmanager
def _served() -> Iterator[Service]:
    """A service over the stored runs that begins nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder, spec = Path(name), read_spec("digits-lamb").model_dump(mode="json")
        engine = connect(f"sqlite:///{folder}/runs/service.sqlite")
        upgrade(engine)
        with writing(engine) as connection:
            connection.execute(jobs.insert(), [_stored(number, spec) for number in range(STORED)])
        engine.dispose()
        with serving(folder, "--max-running-per-owner", "0") as service:
            yield service


def _stored(number: int, spec: dict[str, Any]) -> dict[str, Any]:
    job = Job(
        id=f"run-{number:06}", kind=Kind.RUN, owner="local", name=f"run {number}", recipe="digits-lamb", spec=spec, cpus=1.0, gpus=0, attempt=1,
        global_batch_size=2 ** (number % 8 + 4), state=State.SUCCEEDED if number % 10 else State.FAILED, created_at_s=1.7e9 + number,
        progress={"step": 60, "score": number / STORED, "metric": "accuracy", "training_seconds": 1.5},
    )  # fmt: skip
    return {**job.model_dump(), "kind": "run", "state": str(job.state)}


if __name__ == "__main__":
    main()
