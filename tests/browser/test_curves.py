"""A long run's charts in a real Chromium: true, and the same while it goes on and afterwards."""

from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import made_records
import pytest
from playwright.sync_api import Browser, Page, expect
from servers import Service
from visits import Visit

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Record, StartRecord

STEPS = 5000
CHARTS = ("score", "loss", "rate", "speed", "noise")
EVERY = 30
"""Steps from one noise estimate to the next."""


OPTIONS = ("--max-running-per-owner", "0")
"""It begins nothing: what these runs do is written here."""


def rate(step: int) -> float:
    return 1.0 - step / STEPS


def seconds(step: int) -> float:
    return step / 64


def records(first: int, last: int, scale: float = 1.0) -> Iterator[Record]:
    """Steps whose rate and loss fall; each noise estimate is twice its step."""
    for step in range(first, last + 1):
        measured = step % EVERY == 0
        noise = (
            {"covariance_trace": 2.0 * step, "gradient_norm_squared": 1.0, "dual_variance": 4.0 * step, "dual_norm_squared": 1.0} if measured else {}
        )
        yield made_records.step(step, seconds(step), 32, epoch=step / 45, loss=2.0 / step, learning_rate=scale * rate(step), **noise)
        if step % 100 == 0:
            yield made_records.evaluation(step, seconds(step), 32, epoch=step / 45, score=step / STEPS)


def start(step: int, workers: int) -> StartRecord:
    return made_records.start(step, seconds(step), world_size=workers)


def waiting_run(service: Service) -> str:
    """A run that the service never begins, with a folder to write into."""
    job_id = str(httpx.post(f"{service.url}/v1/runs", json={"recipe": "digits-lamb"}).json()["id"])
    (service.runs_dir / job_id).mkdir()
    (service.runs_dir / job_id / "plan.json").write_text("{}")
    return job_id


def drawn(page: Page) -> dict[str, list[Any]]:
    """Each chart's lines, as plotly has them."""
    lines = "charts => charts.map(c => (document.getElementById(`c-${c}`).data ?? []).map(({name, x, y}) => ({name, x: [...x], y: [...y]})))"
    return dict(zip(CHARTS, page.evaluate(lines, CHARTS), strict=True))


def until_drawn(page: Page, step: int) -> None:
    page.wait_for_function("step => document.querySelector('#c-rate').data?.[0].x.at(-1) === step", arg=step)


@pytest.mark.slow
def test_a_falling_rate_is_drawn_as_falling_live_and_afterwards(browser: Browser, service: Service) -> None:
    job_id = waiting_run(service)
    live, late = (Visit(browser.new_context().new_page(), service.url) for _ in range(2))

    def seen_by(visit: Visit, axis: str, last: float) -> dict[str, list[Any]]:
        visit.page.locator("#axis").select_option(axis)
        until_drawn(visit.page, last)
        return drawn(visit.page)

    with Journal(service.runs_dir / job_id) as journal:

        def write(made: Iterable[Record]) -> None:
            for record in made:
                journal.write(record)

        live.go(f"/runs/{job_id}")
        expect(live.page.locator("#waiting")).to_be_visible()
        write([start(0, 1), *records(1, 10)])
        live.page.locator("#axis").select_option("step")
        until_drawn(live.page, 10)
        expect(live.page.locator("#c-score")).to_have_text("Not evaluated yet.")
        expect(live.page.locator("#c-noise")).to_have_text("Not measured so far.")
        loss_axis = "document.querySelector('#c-loss').layout.yaxis.type"
        assert live.page.evaluate(loss_axis) == "linear"
        for first, last in ((11, 900), (901, 2100), (2101, 4500)):
            write(records(first, last))
            until_drawn(live.page, last)
        write([*records(4501, 4700, scale=9.0), start(4500, 2), *records(4501, STEPS)])  # killed, and resumed by two workers
        until_drawn(live.page, STEPS)
        late.go(f"/runs/{job_id}")
        for axis, last in (("step", STEPS), ("samples_seen", 32 * STEPS), ("training_seconds", seconds(STEPS)),
                           ("cost", seconds(4500) + 2 * (seconds(STEPS) - seconds(4500)))):  # fmt: skip
            assert seen_by(live, axis, last) == seen_by(late, axis, last)

    found = seen_by(late, "step", STEPS)
    (line,) = found["rate"]
    assert line["y"] == [rate(step) for step in line["x"]], "each at its place"
    gaps = {after - before for before, after in zip(line["x"][:-2], line["x"][1:-1], strict=True)}
    assert (line["x"][0], line["x"][-1], len(gaps)) == (1, STEPS, 1), "evenly over the whole run"
    assert 500 <= len(line["x"]) <= 1000
    assert found["loss"][0]["y"] == [2.0 / step for step in found["loss"][0]["x"]]
    assert {visit.page.evaluate(loss_axis) for visit in (live, late)} == {"log"}, "the first losses are a thousand times most of the others"
    assert found["score"][0]["x"] == list(range(100, STEPS + 1, 100)), "every evaluation"
    assert set(found["speed"][0]["y"]) == {32 * 64}
    noise, in_own_norm = found["noise"]
    assert noise["x"] == list(range(EVERY, STEPS + 1, EVERY))
    assert noise["y"] == [EVERY + step for step in noise["x"]], "the mean of 2 * 30, 2 * 60 ... until then"
    assert (in_own_norm["x"], in_own_norm["y"]) == (noise["x"], [2 * value for value in noise["y"]])
    assert [line["name"] for line in found["noise"]] == ["Euclidean", "in the optimizer's own norm"]
    expect(live.page.locator("#notices li")).to_have_text(late.page.locator("#notices li").all_inner_texts())
    expect(late.page.locator("#notices")).to_contain_text("Went on from step 4500, 2 worker(s)")
    live.keep("long-run")
    for visit in (live, late):
        assert visit.complaints == []
        visit.page.context.close()


def test_the_service_goes_away_and_comes_back(browser: Browser, service: Service) -> None:
    """The open pages say so, go on by themselves, and no longer say so."""
    job_id = waiting_run(service)
    sweep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}
    sweep_id = httpx.post(f"{service.url}/v1/sweeps", json={"sweep": sweep}).json()["id"]
    paths = (f"/runs/{job_id}", f"/sweeps/{sweep_id}", "/runs")
    context = browser.new_context()
    visits = [Visit(context.new_page(), service.url) for _ in paths]
    with Journal(service.runs_dir / job_id) as journal:
        for record in [start(0, 1), *records(1, 100)]:
            journal.write(record)
        for visit, path in zip(visits, paths, strict=True):
            visit.go(path)
        run = visits[0].page
        run.locator("#axis").select_option("step")
        until_drawn(run, 100)
        service.kill()
        for visit in visits:
            expect(visit.page.locator("#notice")).to_contain_text("The service does not answer.")
        run.get_by_role("button", name="Cancel").click()
        lost = run.get_by_text("Cancel may not have reached it, and is not sent again.")
        expect(lost).to_be_visible()
        for record in records(101, 200):
            journal.write(record)
        service.start()
        until_drawn(run, 200)
        for visit in visits:
            expect(visit.page.locator("#notice")).to_be_hidden()
        expect(lost).to_be_visible()
    assert [text for visit in visits for text in visit.complaints if "Failed to load resource" not in text] == []
    context.close()
