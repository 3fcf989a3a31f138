"""The lists, the cluster and the tokens in a real Chromium, with ten thousand runs."""

import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from chromium import Tab
from playwright.sync_api import expect
from servers import Service
from sweep_folders import write_sweep
from visits import Visit

from largebatch.service.api.requests import RunSubmit, SweepSubmit, job_of_run, job_of_sweep
from largebatch.service.db.engine import connect
from largebatch.service.db.tables import jobs
from largebatch.service.settings import Settings

OPTIONS = ("--max-running-per-owner", "0")
"""It begins nothing: what is listed is written here."""
MANY = 10_000


@pytest.fixture(scope="module")
def many(service: Service) -> Service:
    """Ten thousand runs; of two optimizers, every seventh missed its target, the newest waits."""
    asked = [RunSubmit.model_validate({"recipe": recipe, "cpus": 1.0}) for recipe in ("digits-lamb", "digits-small-batch")]
    optimizers = [job_of_run(one, "local", Settings(cpus=2.0)).model_dump(mode="json") for one in asked]
    rows = []
    for number in range(MANY):
        began_s = 1.7e9 + number
        progress = {"score": number / MANY, "metric": "accuracy", "step": number, "training_seconds": 1.5}
        facts = {
            "id": f"run-20260101-120000-{number:08x}", "name": f"run {number}", "global_batch_size": 2 ** (number % 8 + 4), "progress": progress,
            "state": "succeeded", "outcome": "missed" if number % 7 == 0 else "reached", "attempt": 1,
            "created_at_s": began_s, "started_at_s": began_s, "ended_at_s": began_s + number,
        }  # fmt: skip
        rows.append({**optimizers[number % 2], **facts})
    rows[-1] |= {"state": "queued", "outcome": None, "progress": {}, "started_at_s": None, "ended_at_s": None, "attempt": 0}
    engine = connect(f"sqlite:///{service.runs_dir}/service.sqlite")
    with engine.begin() as connection:
        connection.execute(jobs.insert(), rows)
    engine.dispose()
    return service


@pytest.fixture
def visit(tab: Tab, many: Service) -> Iterator[Visit]:
    with tab.visit(many.url, 1300) as made:
        yield made
    assert made.foreign == [], "a page asks nobody but its own service"
    assert made.complaints == []


def names(visit: Visit) -> list[str]:
    return visit.page.locator("#jobs tbody .what a:first-child").all_inner_texts()


def begins_with(visit: Visit, *expected: str) -> None:
    """Waits until these are the list's first names: after a click, the list of before may still be there."""
    shown = visit.page.locator("#jobs tbody .what a:first-child")
    for number, name in enumerate(expected):
        expect(shown.nth(number)).to_have_text(name)


def asks_for(visit: Visit, **fields: str) -> None:
    """Waits until the page's address asks for these fields' values."""
    found: dict[str, list[str]] = {}

    def does(url: str) -> bool:
        found.clear()
        found.update(parse_qs(urlsplit(url).query))
        return all(found.get(name) == [value] for name, value in fields.items())

    visit.page.wait_for_url(does)


def test_search_sort_and_columns(visit: Visit) -> None:
    page = visit.page
    visit.go("/runs")
    expect(page.locator("#total")).to_have_text("10,000")
    begins_with(visit, "run 9999", "run 9998")
    visit.refuse_barriers()
    visit.keep("runs")
    page.get_by_role("searchbox", name="Search").fill("batch>=1024 optimizer=lamb")
    page.keyboard.press("Enter")
    expect(page.locator("#total")).to_have_text("1,250 found")
    page.get_by_role("link", name="Accuracy").click()
    asks_for(visit, sort="-score")
    begins_with(visit, "run 9998", "run 9990")
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("link", name="More").click()
    begins_with(visit, "run 9598")
    page.get_by_role("link", name="Accuracy").click()
    begins_with(visit, "run 6", "run 14")
    page.get_by_text("Columns").click()
    for name in ("Seed", "Momentum", "Rate", "Owner"):
        page.get_by_role("checkbox", name=name, exact=True).uncheck()
    page.get_by_role("checkbox", name="Steps").check()
    visit.refuse_barriers()
    with page.expect_navigation():
        page.get_by_role("button", name="Show these").click()
    visit.go("/runs")
    heads = page.locator("thead th").all_inner_texts()
    assert ("Steps" in heads, "Seed" in heads) == (True, False), "the choice is kept"
    page.get_by_label("State").select_option("queued")
    page.get_by_role("button", name="Search").click()
    begins_with(visit, "run 9999")
    page.get_by_role("searchbox", name="Search").fill("batch=many")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("batch is a number, and 'many' is none")
    visit.refuse_barriers()


def test_a_name_tags_and_several_deleted(visit: Visit) -> None:
    page = visit.page
    visit.go("/runs/run-20260101-120000-00000001/about")
    page.get_by_label("Name").fill("The best so far")
    page.get_by_label("Tags").fill("paper two#words")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#e-tags")).to_contain_text("without spaces, commas and #")
    visit.refuse_barriers()
    assert page.get_by_label("Name").input_value() == "The best so far"
    page.get_by_label("Tags").fill("paper, baseline,first  try")
    page.get_by_label("Notes").fill("Seen in July")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url(re.compile("/runs/run-20260101-120000-00000001$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("The best so far")
    expect(page.locator(".notes")).to_have_text("Seen in July")
    expect(page.locator("a.tag")).to_have_text(["paper", "baseline", "first", "try"])
    page.get_by_role("link", name="baseline").click()
    expect(page.locator("#total")).to_have_text("1 found")
    begins_with(visit, "The best so far")

    visit.go("/runs?q=batch%3C32&sort=created_at")
    for number in (0, 8):
        page.get_by_label(f"Choose run-20260101-120000-{number:08x}").check()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delete 2 runs and their files?")
    visit.refuse_barriers()
    page.get_by_role("button", name="Delete for good").click()
    begins_with(visit, "run 16")
    asks_for(visit, q="batch<32", sort="created_at")
    visit.go("/runs?state=queued")
    page.get_by_label("Choose all").check()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Nothing like that.")).to_be_visible()
    visit.complaints[:] = [text for text in visit.complaints if "422" not in text]


def test_runs_grouped_by_sweep(visit: Visit, many: Service) -> None:
    asked = SweepSubmit.model_validate({"sweep": {"recipe": "digits-lamb", "each": {"batch.global_batch_size": [32, 64]}}, "cpus": 1.0})
    sweep = job_of_sweep(asked, "local", Settings(cpus=2.0)).model_copy(update={"name": "both batches", "created_at_s": 1.7e9 + 4.5})
    write_sweep(many.runs_dir / sweep.id, sweep.base)
    many.put(sweep)
    page = visit.page
    visit.go("/runs?q=batch%3D64%20steps%3C10&sort=created_at")
    begins_with(visit, "run 2")
    assert "both batches" not in names(visit)
    page.get_by_role("searchbox", name="Search").fill("")
    page.get_by_label("Grouping").select_option("sweep")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#total")).to_have_text(re.compile(r"^\d+,\d{3}$"))
    listed = names(visit)
    assert listed.index("both batches") == listed.index("run 4") + 1, "each at its time"
    assert "Runs over" in page.locator("thead th").all_inner_texts()
    page.get_by_role("link", name="its runs").click()
    expect(page.locator("tr.within tr[data-trial]")).to_have_count(4)
    visit.refuse_barriers()
    visit.keep("grouped")
    page.get_by_role("link", name="hide its runs").click()
    expect(page.locator("tr.within")).to_have_count(0)
    for name in ("both batches", "run 4"):
        page.locator("#jobs tbody tr", has_text=name).first.get_by_role("checkbox").check()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delete 2 jobs and their files?")
    expect(page.locator("main li").filter(has_text="(sweep)")).to_contain_text("is queued: cancel it first")
    visit.refuse_barriers()


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_a_phone_shows_state_name_and_metric(tab: Tab, many: Service, scheme: Literal["light", "dark"]) -> None:
    """In light colours, slow, the other visits of this file look for barriers too."""
    with tab.visit(many.url, 380, 800, scheme) as visit:
        for path in ("/runs", "/cluster", "/tokens", "/runs/00000003/about"):
            visit.go(path)
            visit.refuse_barriers()
            assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the screen"
            visit.keep(f"phone-{scheme}{path.replace('/', '-')}")
        visit.go("/runs")
        heads = [text for text in visit.page.locator("thead th:visible").all_inner_texts() if text.strip()]
        assert heads == ["Run", "State", "Accuracy"]
        cut = "[...document.querySelectorAll('.wide')].filter((box) => box.scrollWidth > box.clientWidth).length"
        assert visit.page.evaluate(cut) == 0, "a column is cut"


def test_the_cluster_and_tokens(visit: Visit) -> None:
    page = visit.page
    visit.go("/cluster")
    expect(page.get_by_role("heading", name="The queue")).to_be_visible()
    visit.refuse_barriers()
    visit.keep("cluster")
    visit.go("/tokens")
    page.get_by_label("Owner").fill("ann and bob")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#e-owner")).to_contain_text("cannot be an owner's name")
    page.get_by_label("Owner").fill("ann")
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Days").fill("30")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#secret")).to_have_text(re.compile("^lb_"))
    expect(page.locator("tbody tr")).to_contain_text("laptop")
    visit.refuse_barriers()
    visit.keep("tokens")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Revoke").click()
    expect(page.locator("tbody tr")).not_to_contain_text("revoked")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke").click()
    expect(page.locator("tbody tr")).to_contain_text("revoked")
    expect(page.locator("#secret"), "it was shown once").to_have_count(0)
    visit.complaints[:] = [text for text in visit.complaints if "422" not in text]
