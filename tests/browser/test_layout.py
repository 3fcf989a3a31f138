"""Pages that keep still while they come, and figures whose numbers can be read, in a real Chromium."""

from collections.abc import Iterator
from typing import Literal

import pytest
from chromium import Tab
from playwright.sync_api import Browser, Page, expect
from put_jobs import put_ended, put_short_study, put_sweep
from servers import Service
from sweep_folders import write_grid
from visits import PATIENCE_MS, Visit

MOST_SHIFT = 0.1
"""Of a page as it comes: what Chromium's authors call good."""
COUNT_SHIFTS = """window.shift = 0; new PerformanceObserver((list) => {
  for (const { value, hadRecentInput } of list.getEntries()) if (!hadRecentInput) window.shift += value;
}).observe({ type: "layout-shift", buffered: true });"""
LAST_FIGURE = "#figure-score-curves .main-svg"

CROWDED = """[...document.querySelectorAll(".js-plotly-plot")].flatMap((plot) => {
  const inside = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll("svg text")].filter((text) => text.textContent.trim() && text.getBoundingClientRect().width);
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const cut = boxes.filter(([, { left, right }]) => left < inside.left - 1 || right > inside.right + 1).map(([text]) => `${plot.id}: ${text} is cut`);
  const over = boxes.flatMap(([text, a], index) => boxes.slice(index + 1)
    .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
    .map(([other]) => `${plot.id}: ${text} over ${other}`));
  return [...cut, ...over];
})"""
"""Texts of figures that run into each other or out of their figure."""
FEW_NUMBERS = """[...document.querySelectorAll(".js-plotly-plot")].flatMap((plot) => ["x", "y"]
  .filter((axis) => plot._fullLayout[`${axis}axis`].visible && plot.querySelectorAll(`.${axis}tick text`).length < 3)
  .map((axis) => `${plot.id}: ${axis}`))"""


@pytest.fixture(params=[pytest.param(1300, marks=pytest.mark.slow), 400])
def width(request: pytest.FixtureRequest) -> int:
    """Of a window, in pixels."""
    return int(request.param)


@pytest.fixture
def visit(tab: Tab, service: Service, width: int) -> Iterator[Visit]:
    with tab.visit(service.url, width) as made:
        yield made
    assert made.complaints == []


@pytest.fixture
def first_visit(browser: Browser, service: Service, width: int) -> Iterator[Visit]:
    """By somebody whose browser has kept nothing, so that a page's parts come one after the other; it counts what shifts."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.add_init_script(COUNT_SHIFTS)
    made = Visit(page, service.url)
    yield made
    assert made.complaints == []
    context.close()


@pytest.fixture(scope="module")
def ended(service: Service) -> tuple[str, str]:
    """A run, and a sweep of many."""
    return put_ended(service, **{"stop.epochs": 3}), put_sweep(service, write_grid)


def shift_of(page: Page) -> float:
    """All that has moved on the page, once two frames more were drawn."""
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    return float(page.evaluate("window.shift"))


def test_pages_of_what_is_over_do_not_shift(first_visit: Visit, ended: tuple[str, str]) -> None:
    run, sweep = ended
    for path, last in ((f"/runs/{run}", "#c-noise"), ("/runs", f'tr[data-id="{run}"]'), (f"/sweeps/{sweep}", LAST_FIGURE)):
        first_visit.go(path)
        expect(first_visit.page.locator(last).first).to_be_visible(timeout=3 * PATIENCE_MS)  # the first answer takes longest
        assert shift_of(first_visit.page) < MOST_SHIFT, path


def test_figures_of_a_sweep_have_three_numbers_on_each_axis_and_no_text_over_another(visit: Visit, ended: tuple[str, str]) -> None:
    visit.go(f"/sweeps/{ended[1]}")
    page = visit.page
    expect(page.locator(LAST_FIGURE).first).to_be_visible()
    expect(page.locator("#figure-momentum-map .hm image")).to_have_count(1)
    assert page.evaluate(CROWDED) == []
    assert page.evaluate(FEW_NUMBERS) == []
    upright = "document.querySelector('#figure-parallel').layout.annotations.reduce((of, { x }) => ({ ...of, [x]: (of[x] ?? 0) + 1 }), {})"
    assert min(page.evaluate(upright).values()) >= 3, "on each of the parallel axes"
    share = "(({ _fullLayout: { width, _size } }) => _size.w / width)(document.querySelector('#figure-momentum-map'))"
    assert page.evaluate(share) > 0.6, "the map has the figure's width"
    visit.keep(f"figures-{page.viewport_size['width'] if page.viewport_size else ''}")


def test_comparing_names_runs_as_their_owner_did_and_fits_a_phone(visit: Visit, service: Service) -> None:
    ids = [put_ended(service, **{"stop.epochs": 1, "seed": seed}) for seed in range(3)]
    for job_id, name in zip(ids, ("small and slow", "twice", "twice"), strict=True):
        visit.page.request.patch(f"{service.url}/v1/runs/{job_id}", data={"name": name})
    visit.go(f"/compare?run={ids[0]}&run={ids[1]}&run={ids[2]}")
    page = visit.page
    expect(page.locator("#c-curves .trace")).to_have_count(3)
    called = ["small and slow", *(f"twice {job_id.rpartition('-')[2]}" for job_id in ids[1:])]
    assert page.evaluate("document.querySelector('#c-curves').data.map(({ name }) => name)") == [f"{name} (sgd)" for name in called]
    expect(page.locator("#compared a")).to_have_text(called)
    cut = "[...document.querySelectorAll('#compared td, .legendtext')].filter((e) => e.getBoundingClientRect().right > innerWidth).length"
    assert page.evaluate(cut) == 0
    visit.refuse_barriers()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_what_is_offered_after_a_study_or_a_sweep_fits(
    visit: Visit, service: Service, ended: tuple[str, str], scheme: Literal["light", "dark"]
) -> None:
    """The form that gives a study more time, the card with its recipe to run, and two runs compared."""
    run, sweep = ended
    other, study = put_ended(service, **{"stop.epochs": 2, "batch.global_batch_size": 256}), put_short_study(service)
    page = visit.page
    page.emulate_media(color_scheme=scheme)
    for name, path, shown in (
        ("study-resume", f"/studies/{study}", "#budget"),
        ("card", f"/sweeps/{sweep}", ".answer-card .here"),
        ("compare", f"/compare?run={run}&run={other}", "#c-fields .point"),
    ):
        visit.go(path)
        expect(page.locator(shown).first).to_be_visible()
        page.wait_for_load_state("networkidle")
        visit.keep(f"{name}-{scheme}-{page.viewport_size['width']}" if page.viewport_size else name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        visit.refuse_barriers()
    expect(page.locator("#c-fields .xtick text")).to_have_text(["32", "256"])
    assert max(badge.bounding_box()["width"] for badge in page.locator("#compared .state").all()) < 150, "as long as its word"
