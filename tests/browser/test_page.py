"""The page as a newcomer uses it, in a real Chromium: submit, watch it grow, compare, cancel, mend a mistake."""

import re
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
import yaml
from chromium import Tab
from playwright.sync_api import expect
from put_jobs import put_cancelled, put_ended, put_sweep
from servers import Service
from visits import PATIENCE_MS, Visit


@pytest.fixture
def visit(tab: Tab, service: Service) -> Iterator[Visit]:
    with tab.visit(service.url, 1200) as made:
        yield made
    assert made.foreign == [], "a page asks nobody but its own service"


def test_a_newcomer_submits_the_digits_and_sees_the_curve_grow(visit: Visit, service: Service) -> None:
    page = visit.page
    visit.go("/")
    expect(page.get_by_text("Nothing has run here yet.")).to_be_visible()
    visit.refuse_barriers()
    page.get_by_text("Start the digits recipe").click()
    page.get_by_label("Epochs", exact=True).fill("200")
    page.get_by_text("Other fields").click()
    page.get_by_label("a line").fill("tracking.enabled=false")  # nobody looks at its MLflow, which costs more than all its steps
    page.get_by_text("Show the plan").click()
    expect(page.get_by_text("200 steps, 287400 samples, 200 epochs")).to_be_visible()
    expect(page.locator("#planned")).to_be_focused()
    expect(page.locator("#planning")).to_be_empty()
    visit.refuse_barriers()
    expect(page.locator("#planned")).to_contain_text("at once: nothing else runs")
    visit.keep("new-run")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile("/runs/digits-lamb-"))
    curve = page.locator("#c-score .point")
    expect(curve.first).to_be_visible()
    few = curve.count()
    expect(page.locator("#job .state").first).to_have_text("succeeded", timeout=5 * PATIENCE_MS)
    expect(page.locator("[data-cell=step]")).to_have_text("200")
    visit.until("document.querySelector('#c-score').data[0].x.length", 100)
    assert few < 100, "it grew"
    expect(page.get_by_text("Ended: completed")).to_be_visible()
    expect(page.locator("#log")).to_contain_text("test accuracy")
    expect(page.locator("#log")).not_to_contain_text("run_id")
    page.locator("#run-plan summary").click()
    expect(page.locator("#run-plan dl")).to_contain_text("200, over 287,400 samples")
    expect(page.locator("#progress")).to_have_text("Step 200 of 200")
    visit.refuse_barriers()
    page.get_by_label("Against").select_option("samples")
    expect(page.locator("#c-score")).to_contain_text("samples")
    visit.keep("run")
    with page.expect_download() as download:
        page.get_by_text("Weights, newest (step 200)").click()
    assert download.value.suggested_filename.endswith(".safetensors")
    expect(page.locator("#files")).to_contain_text("records.jsonl")
    page.locator("#commands summary").click()
    expect(page.locator("#commands")).to_contain_text("largebatch train digits-lamb \\\n --set stop.epochs=200", use_inner_text=False)
    assert visit.complaints == []


def test_another_run_like_it(visit: Visit, service: Service) -> None:
    """What was changed is kept when the recipe changes, and by Back."""
    page = visit.page
    visit.go(f"/runs/{put_ended(service, 'digits-lamb', **{'stop.epochs': 3, 'gradient.noise_every_steps': 0})}")
    expect(page.locator("#c-noise")).to_have_text("Not measured: the plan says why, or how often it would be.")
    page.get_by_text("Edit and run again").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Recipe", exact=True).select_option("digits-small-batch")
    expect(page.get_by_label("Global batch size")).to_have_value("32")
    for label, value in (("Epochs", "3"), ("Seed", "7"), ("Learning rate", "0.05")):
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    page.get_by_label("Optimizer").select_option("adamw")
    expect(page.get_by_label("Momentum (beta1)")).to_have_value("0.9")
    expect(page.get_by_label("Seed")).to_have_value("7")
    page.get_by_role("link", name="Sweeps").click()
    page.go_back()
    expect(page.get_by_label("Optimizer")).to_have_value("adamw")
    expect(page.get_by_label("Seed")).to_have_value("7")
    assert [text for text in visit.complaints if "422" not in text] == []


def test_the_form_works_without_its_script(visit: Visit) -> None:
    page = visit.page
    page.route("**/static/*/page.js", lambda route: route.abort())
    visit.go("/runs/new?recipe=digits-small-batch")
    page.get_by_label("Epochs", exact=True).fill("none")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".field.wrong .error")).to_contain_text('must be a number, not "none"')
    page.get_by_label("Epochs", exact=True).fill("2")
    page.get_by_text("Show the plan").click()
    expect(page.locator("#planned")).to_contain_text("90 steps")


def test_more_epochs_cancel_and_resume(visit: Visit, service: Service) -> None:
    page = visit.page
    visit.go(f"/runs/{put_ended(service, **{'stop.epochs': 3, 'stop.target_accuracy': None})}")
    page.get_by_label("Train on to epoch").fill("2")
    page.get_by_role("button", name="Resume with more epochs").click()
    expect(page.locator("#epochs-error")).to_contain_text("2 are no more than the 3 that it has done")
    visit.refuse_barriers()
    page.get_by_label("Train on to epoch").fill("100000")
    page.get_by_role("button", name="Resume with more epochs").click()
    expect(page.locator("#job .state").first).to_have_text("running")
    expect(page.locator("#progress")).to_contain_text("of 4,500,000")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#pressed")).to_contain_text("finishes its step")
    expect(page.locator("#job .state").first).to_have_text("cancelled")
    expect(page.locator("#pressed")).to_be_hidden()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.locator("#job .state").first).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job .state").first).to_have_text("cancelled")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url(re.compile("/runs$"))
    assert [text for text in visit.complaints if "422" not in text] == []


def test_a_mistake_is_told_beside_its_field_and_keeps_the_rest(visit: Visit) -> None:
    page = visit.page
    visit.go("/runs/new")
    page.get_by_label("Global batch size").fill("many")
    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_role("button", name="Start").click()
    field = page.locator('.field[data-field="batch.global_batch_size"]')
    expect(field.locator(".error")).to_contain_text("whole number")
    expect(page.get_by_label("Global batch size")).to_be_focused()
    visit.refuse_barriers()
    page.get_by_label("Global batch size").fill("9999")
    page.get_by_text("Show the plan").click()
    expect(field.locator(".error")).to_contain_text("more than the 1437 samples")
    page.get_by_text("Other fields").click()
    page.get_by_label("a line").fill("optimizer.momentun=0.9")
    page.get_by_label("Global batch size").fill("full")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#f-set-error")).to_contain_text("Did you mean momentum?")
    expect(page.get_by_label("Epochs", exact=True)).to_have_value("3")
    page.get_by_label("a line").fill("")
    page.get_by_label("Workers").fill("two")
    page.get_by_role("button", name="Start").click()
    expect(page.locator('.field[data-field="workers"] .error')).to_have_text(
        'must be a number of workers such as 4, or bounds such as 2:8, not "two".'
    )
    page.get_by_label("Workers").fill("")
    visit.keep("mistake")
    page.get_by_text("Other fields").click()
    page.get_by_label("a line").fill("model.entry_point=my_code:build\nmodel.name=null")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#f-set-error")).to_contain_text("The operator allows it with: largebatch serve --entry-point my_code:build")


def test_comparing_runs_on_every_axis(visit: Visit, service: Service) -> None:
    ids = [put_ended(service, **{"batch.global_batch_size": batch, "stop.epochs": 3}) for batch in (64, 256)]
    page = visit.page
    visit.go("/runs")
    for job_id in ids:
        expect(page.locator(f'tr[data-id="{job_id}"] .state')).to_have_text("succeeded")
        page.get_by_label(f"Choose {job_id}").check()
    page.route("**/series", lambda route: route.abort(), times=1)  # what is not answered is asked for again
    page.get_by_role("button", name="Compare the chosen").click()
    expect(page.locator("#c-curves .trace")).to_have_count(2)
    for axis in ("samples_seen", "step", "cost", "training_seconds"):
        page.locator("#axis").select_option(axis)
        expect(page.locator("#c-curves .trace")).to_have_count(2)
    page.locator("#result").select_option("training_seconds")
    expect(page.locator("#c-fields .point")).to_have_count(2)
    expect(page.locator("#fields-title")).to_have_text("training_seconds against batch.global_batch_size")
    visit.refuse_barriers()
    visit.keep("compare")
    assert [text for text in visit.complaints if "Failed to load resource" not in text] == []


def test_comparing_a_full_batch_and_a_run_without_data(visit: Visit, service: Service) -> None:
    ids = [
        put_ended(service, **{"stop.epochs": 1, **more})
        for more in ({"batch.global_batch_size": 64}, {"batch.global_batch_size": "full", "stop.target_accuracy": None})
    ]
    idle = httpx.post(f"{service.url}/v1/runs", json={"recipe": "digits-lamb", "deadline_s": 0.001}).json()["id"]
    service.wait(idle, "failed")
    page = visit.page
    points = "(() => { const {x, y} = document.querySelector('#c-fields').data[0]; return [[...x], y.length]; })()"

    visit.go(f"/compare?run={ids[0]}&run={ids[1]}&run={idle}")
    expect(page.locator("#c-curves .trace")).to_have_count(2)
    expect(page.locator("#curves-missing")).to_have_text("Without a score: digits-lamb")  # which failed
    expect(page.locator("#c-fields .point")).to_have_count(2)
    visit.until(points, [[64, 1437], 2])  # the full batch stands where its size is
    page.locator("#field").select_option("optimizer.name")
    visit.until(points, [["sgd", "sgd"], 2])
    page.locator("#field").select_option("stop.target_accuracy")
    visit.until(f"{points}[0][1]", "none")  # which is a place as well
    page.locator("#result").select_option("time_to_target_seconds")
    expect(page.locator("#c-fields")).to_have_text("None of these runs has ended with a time_to_target_seconds.")

    cancelled = put_cancelled(service, ids[0])
    called = f"digits-small-batch {cancelled.rpartition('-')[2]}"
    visit.go(f"/compare?run={ids[0]}&run={cancelled}&run={idle}")
    expect(page.locator("#c-fields .point")).to_have_count(2)
    drawn = page.evaluate("(({x, y, marker}) => [[...x], [...y], [...marker.symbol]])(document.querySelector('#c-fields').data[0])")
    assert drawn[0] == ["64", "64"], "one size: no axis of sizes that nobody tried"
    assert (drawn[1][1], drawn[2]) == (drawn[1][0], ["circle", "circle-open"])
    told = f"Not ended, drawn hollow as far as it came: {called}. Without a score: digits-lamb."
    expect(page.locator("#fields-missing")).to_have_text(told)
    expect(page.locator("#c-curves .trace")).to_have_count(2)
    assert page.evaluate("document.querySelector('#c-curves').layout.xaxis.range[0]") >= 0, "nothing was measured before a run began"
    page.locator("#result").select_option("samples_per_second")
    expect(page.locator("#fields-missing")).to_have_text(f"Without a samples_per_second: {called}, digits-lamb.")
    visit.refuse_barriers()
    visit.keep("compare-full")

    visit.go(f"/compare?run={idle}")
    expect(page.locator("#c-curves")).to_have_text("None of these runs has a score.")
    expect(page.locator("#c-curves svg")).to_have_count(0)
    visit.refuse_barriers()
    assert visit.complaints == []


def test_runs_of_two_metrics_share_no_axis_and_are_said_not_to_be_ranked(visit: Visit, service: Service) -> None:
    digits, diabetes = put_ended(service, **{"stop.epochs": 1}), put_ended(service, "diabetes-regression", **{"stop.epochs": 1})
    page = visit.page
    visit.go(f"/compare?run={digits}&run={diabetes}")
    expect(page.locator("#footing")).to_contain_text("These runs are not on one footing, so not to be ranked: mlp (depth 2, width 128) on digits")
    for metric, other in (("accuracy", "diabetes-regression"), ("r2", "digits-small-batch")):
        for select, chart, words in (("#metric", "#c-curves", f": {other}"), ("#result", "#c-fields", f": {other}.")):
            page.locator(select).select_option(f"score ({metric})")
            expect(page.locator(f"{chart} .trace")).to_have_count(1)
            expect(page.locator(f"{chart.replace('#c-', '#')}-missing")).to_have_text(f"Without a score ({metric}){words}")
    for loss, other in (("classification", "diabetes-regression"), ("mse", "digits-small-batch")):  # a cross-entropy and a squared error
        for name in ("evaluated", "train"):
            page.locator("#metric").select_option(label=f"{name} loss ({loss})")
            expect(page.locator("#c-curves .trace")).to_have_count(1)
            expect(page.locator("#curves-missing")).to_have_text(f"Without a {name} loss ({loss}): {other}")
    visit.keep("compare-losses")
    visit.refuse_barriers()
    assert visit.complaints == []


def test_a_sweep_with_its_runs_and_its_answer(visit: Visit, service: Service) -> None:
    """A sweep that has ended, from its folder and its row; what runs live is told by events, which test_service_on_ray hears."""
    job_id = put_sweep(service)
    page = visit.page
    visit.go(f"/sweeps/{job_id}")
    expect(page.locator("#trials tbody tr")).to_have_count(4)
    first = page.locator("#trials tbody tr").first
    expect(first).to_contain_text("batch 32, learning rate 0.1")
    expect(first.locator(".state")).to_have_text("reached")
    expect(page.locator("#trials .state.pruned")).to_have_count(1)
    mark = "[getComputedStyle(e).color, getComputedStyle(e, '::before').content]"
    looks = [page.locator(f"#trials .state.{outcome}").first.evaluate(f"e => {mark}") for outcome in ("reached", "missed")]
    assert looks[0][0] != looks[1][0], "a miss is no success"
    assert looks[0][1] != looks[1][1], "also without colours"
    card = page.locator(".answer-card")
    expect(card.get_by_role("heading")).to_contain_text("Batch ")
    expect(card).to_contain_text("How sure")
    expect(card.locator("#command")).to_have_text("largebatch train recipe.yaml")
    assert card.bounding_box()["y"] < page.locator("#runs").bounding_box()["y"], "the answer comes first"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card.get_by_role("button", name="Copy recipe").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    copied = yaml.safe_load(page.evaluate("navigator.clipboard.readText()"))
    assert copied["batch"]["global_batch_size"] in {32, 64}
    expect(page.locator("#words")).to_contain_text("3 runs of 2 batch sizes")
    expect(page.locator("#rows")).to_contain_text("32")
    expect(page.locator("#figures figure").first).to_be_visible()
    expect(page.locator("#figures .main-svg").first).to_be_visible()
    overflow = "[...document.querySelectorAll('#figures .chart')].filter(c => c.scrollWidth > c.clientWidth + 1).map(c => c.id)"
    visit.until(overflow, [])  # each figure keeps to its place
    expect(page.get_by_text("Its page in MLflow")).to_be_hidden()
    for name in ("rates", "parallel"):
        expect(page.locator(f"#figure-{name} .main-svg").first).to_be_visible()
    visit.refuse_barriers()
    visit.keep("sweep")
    visit.go("/sweeps")
    page.locator(f'tr[data-id="{job_id}"]').get_by_role("link", name="its runs").click()
    expect(page.locator("tr.within tr[data-trial]")).to_have_count(4)
    visit.refuse_barriers()
    visit.keep("sweeps")
    first.get_by_role("link").click()
    expect(page.locator(".facts")).to_contain_text("Global batch")
    expect(page.locator("#files")).to_contain_text("spec.json")
    visit.refuse_barriers()
    visit.go("/sweeps/new")
    page.get_by_label("Batch sizes").fill("16, 64")
    page.get_by_text("Show the plan").click()
    expect(page.get_by_text(re.compile(r"at most \d+")).first).to_be_visible()
    visit.refuse_barriers()
    visit.keep("new-sweep")
    page.get_by_label("Batch sizes").fill("16, 5000")
    page.get_by_text("Show the plan").click()
    expect(page.locator('.field[data-field="batch.global_batch_size"]').filter(has_text="5000").first).to_be_visible()
    assert [text for text in visit.complaints if "422" not in text] == [], "the plan's refusal is one"


def test_a_sweep_that_failed_says_why(visit: Visit, service: Service) -> None:
    sweep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}
    job_id = httpx.post(f"{service.url}/v1/sweeps", json={"sweep": sweep, "deadline_s": 0.001}).json()["id"]
    service.wait(job_id, "failed", kind="sweep")
    visit.go(f"/sweeps/{job_id}")
    expect(visit.page.locator("#words")).to_contain_text("This sweep is over (failed), without an answer")
    expect(visit.page.get_by_text("deadline")).to_have_count(1)
    for heading in ("Runs", "Batch by batch", "Figures"):
        expect(visit.page.get_by_role("heading", name=heading, exact=True)).not_to_be_visible()
    assert visit.complaints == []


def test_new_runs_appear_in_an_open_list(visit: Visit, service: Service) -> None:
    page = visit.page
    with page.expect_response(lambda answer: "/v1/events" in answer.url):  # it listens
        visit.go("/runs")
    job_id = httpx.post(f"{service.url}/v1/runs", json={"recipe": "digits-lamb", "deadline_s": 0.001}).json()["id"]
    expect(page.locator(f'tr[data-id="{job_id}"] .state')).to_have_text("failed")
    assert visit.complaints == []


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_every_page_is_readable_on_a_phone(tab: Tab, service: Service, scheme: Literal["light", "dark"]) -> None:
    """In light colours, slow, the other visits of this file look for barriers too."""
    with tab.visit(service.url, 380, 800, scheme) as visit:
        for path in ("/runs", "/runs/new", "/sweeps", "/sweeps/new", "/studies", "/studies/new", "/compare", "/login"):
            visit.go(path)
            visit.refuse_barriers()
            assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the screen"
            visit.keep(f"phone-{scheme}{path.replace('/', '-')}")
        visit.go("/runs/nothing")
        expect(visit.page.get_by_text("there is no run")).to_be_visible()
        visit.refuse_barriers()


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.page
    visit.go("/runs/new")
    page.keyboard.press("Tab")
    expect(page.get_by_text("To the content")).to_be_focused()
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.name"))
    assert {"batch.global_batch_size", "Start", "Show the plan"} <= seen
