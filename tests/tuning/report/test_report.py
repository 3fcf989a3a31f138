"""The report: in a real browser, light and dark, with every figure drawn, no error and no request; and without one."""

import json
import math
import re
from pathlib import Path
from typing import Literal

import pytest
from chromium import Tab
from command_line import largebatch
from made_runs import BASE, TARGET, made_folder, made_run
from playwright.sync_api import Page, expect

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.report.code_words import coded
from largebatch.tuning.report.contents import Extras, charts_of
from largebatch.tuning.report.plotly_pen import write_page
from largebatch.tuning.report.report import write_report
from largebatch.tuning.report.run_figures import score_curves
from largebatch.tuning.results.analysis.prediction import Miss, Predicted
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint
from largebatch.tuning.results.background import BegunFrom
from largebatch.tuning.results.findings import find
from largebatch.tuning.sweep.spec import SweepSpec

BATCHES = [32, 128, 512, 2048]
PROFILE = Profile(
    recipe="made", device="cpu (test)", num_train_samples=4096, gradient_bytes=4000, left_out={1: "</script> cannot be"},
    points=[
        ProfilePoint(global_batch_size=b, micro_batch_size=b, seconds_per_step=0.002 + b / 40_000, seconds_per_epoch=4096 / b * 0.002,
                     samples_per_second=1.0, peak_memory_bytes=1, num_steps=5)
        for b in (1, 16, 256, 4096)
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [made_run(b, seed, momentum=m, factor=1.0 if m else 1.4) for b in BATCHES for seed in range(3) for m in (0.0, 0.9)]
    extras = Extras(PROFILE, [Predicted(32, 1.0, 1.0, 1.0, 0.1)], [Miss(32, 1.3, 1.0)], words=["A word <b>& more</b>."])
    return write_report(tmp_path_factory.mktemp("report"), find(runs), extras)


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("factor", [0.05, 3.0], ids=["the soonest", "not the soonest"])
def test_the_figures_show_the_recipe_as_it_was_and_count_it_as_the_card_does(tmp_path: Path, factor: float) -> None:
    """A study's own run of its recipe, which lies beside the sweep."""
    own = made_run(16, factor=factor)
    found = find([made_run(batch, seed) for batch in BATCHES for seed in range(2)], begun_from=BegunFrom(BASE, own))
    numbers = json.loads((write_report(tmp_path, found).parent / "report.json").read_text())
    charts = {chart.name: {series.name: series for series in chart.series} for chart in charts_of(found, Extras())}
    seconds = own.evaluations[-1].training_seconds
    assert [*charts["time-to-target"]["the recipe as it was"].y] == [*charts["cost-frontier"]["the recipe as it was"].x] == [seconds]
    assert [*charts["cost-frontier"]["frontier"].x] == [choice["seconds"] for choice in numbers["cost_frontier"]]
    assert (seconds in charts["cost-frontier"]["frontier"].x) == (factor < 1)
    assert "neither the recipe as it was nor the runs to the end" in (tmp_path / "report.html").read_text()


def test_files(report: Path) -> None:
    numbers = json.loads((report.parent / "report.json").read_text())
    assert numbers["target"] == TARGET
    assert [row["global_batch_size"] for row in numbers["batches"]] == BATCHES
    assert numbers["prediction_errors"][0]["error"] == pytest.approx(0.3)
    pictures = {path.stem for path in report.parent.glob("*.png")}
    assert pictures == {
        "time-to-target", "steps-to-target", "samples-to-target", "score-frontier", "cost-frontier", "score-of-batch", "momentum-map",
        "time-of-update", "time-of-epoch", "score-curves",
    }  # fmt: skip
    page = report.read_text()
    assert "<b>& more" not in page
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)\s*=\s*[\"']https?:", page)


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1300)])
def test_in_a_browser_and_printed(tab: Tab, report: Path, tmp_path: Path, scheme: Literal["light", "dark"], width: int) -> None:
    with tab.visit(report.as_uri(), width, 800, scheme) as visit:
        visit.go("")
        assert_fit_for_a_screen(visit.page, scheme)
        visit.refuse_barriers()
        assert visit.complaints == []
        assert visit.foreign == [], "a report asks nobody"
        if scheme == "dark":
            assert_fit_for_paper(visit.page, tmp_path)


def assert_fit_for_a_screen(page: Page, scheme: str) -> None:
    page.wait_for_function("document.querySelectorAll('.figure .main-svg').length >= 20")
    assert page.locator(".figure.js-plotly-plot").count() == 10, "every figure is drawn"
    assert page.locator("#time-to-target .scatterlayer .point").count() >= len(BATCHES)
    assert page.locator("#momentum-map .hm image").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    assert page.evaluate("[...document.querySelectorAll('table')].every(table => table.getBoundingClientRect().right <= innerWidth)"), "cut"
    assert page.locator(".answer-card").bounding_box()["y"] < page.locator(".figure").first.bounding_box()["y"], "the answer comes first"
    expect(page.locator("footer")).to_contain_text(re.compile(r"Made 20\d\d-\d\d-\d\dT.* by "))
    few = "[...document.querySelectorAll('.figure:not(#momentum-map)')].filter(f => ['x', 'y'].some(a => f.querySelectorAll(`.${a}tick`).length < 3))"
    assert page.evaluate(f"{few}.map(figure => figure.id)") == [], "each axis has three numbers"
    assert page.locator(".legend").count() == 0, "labels stand beside the lines"
    text, paper = page.evaluate(
        "[getComputedStyle(document.querySelector('#time-to-target .xtitle')).fill, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(text) > brightness(paper)) == (scheme == "dark"), "the figures follow the page's colours"


@pytest.mark.parametrize(("scheme", "width"), [pytest.param("light", 1300, marks=pytest.mark.slow), ("dark", 400)])
def test_one_figure_alone_in_a_browser(tab: Tab, tmp_path: Path, scheme: Literal["light", "dark"], width: int) -> None:
    """What `compare --figure` writes: in the page's colours, and whole on a phone. The report above is seen in the light in ordinary runs."""
    write_page(score_curves([made_run(32, seed) for seed in range(9)]), tmp_path / "figure.html")
    with tab.visit((tmp_path / "figure.html").as_uri(), width, 800, scheme) as visit:
        page = visit.page
        visit.go("")
        page.wait_for_function("document.querySelectorAll('.figure .main-svg').length >= 2")
        text, paper = page.evaluate("[getComputedStyle(document.querySelector('.xtitle')).fill, getComputedStyle(document.body).backgroundColor]")
        assert (brightness(text) > brightness(paper)) == (scheme == "dark")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
        outside = "[...document.querySelectorAll('.legendtext, .xtitle, h1')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        assert page.evaluate(f"{outside}.length") == 0, "cut"
        visit.refuse_barriers()


def test_what_stands_between_backticks_is_code_on_pages() -> None:
    assert coded("a <b> of `largebatch report <F>`, `y`") == "a &lt;b&gt; of <code>largebatch report &lt;F&gt;</code>, <code>y</code>"
    assert coded("one ` alone") == "one ` alone"


def assert_fit_for_paper(page: Page, folder: Path) -> None:
    """Printed from a dark screen: light, figures as wide as the page, and no button; and afterwards as before."""
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    paper, width = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('.main-svg').getBoundingClientRect().width]"
    )
    assert brightness(paper) == 3 * 255
    assert width < 700
    assert page.locator("button:visible").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert brightness(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 300
    page.pdf(path=folder / "report.pdf", format="A4")
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")


def brightness(colour: str) -> int:
    """Of `rgb(r, g, b)`."""
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3])


@pytest.mark.usefixtures("blank_pictures")
def test_nothing_reached_still_gives_a_report(tmp_path: Path) -> None:
    found = find([made_run(b, reaches=False) for b in BATCHES])
    assert write_report(tmp_path / "out", found).is_file()
    assert {chart.name for chart in charts_of(found, Extras())} == {"score-frontier", "score-of-batch", "score-curves"}


@pytest.mark.usefixtures("blank_pictures")
def test_a_figure_that_cannot_be_made_is_left_out_and_named(tmp_path: Path) -> None:
    unmeasured = [point.model_copy(update={"seconds_per_step": math.nan}) for point in PROFILE.points]
    page = write_report(tmp_path, find([made_run(b) for b in BATCHES]), Extras(PROFILE.model_copy(update={"points": unmeasured})))
    (failed,) = json.loads((tmp_path / "report.json").read_text())["failed"]
    assert failed["what"] == "the figure of the profile"
    assert failed["why"].startswith("ValueError: ")
    assert "Left out: the figure of the profile. ValueError" in page.read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_the_commands_read_folders(tmp_path: Path) -> None:
    for batch in (32, 128, 512):
        for seed in range(2):
            made_folder(tmp_path / "runs", batch, seed)
    (tmp_path / "profile.json").write_text(PROFILE.model_dump_json())
    place = str(tmp_path / "runs")
    answer = json.loads(largebatch("advise", place, "--json", "--deadline", "3").stdout)
    assert [row["global_batch_size"] for row in answer["batches"]] == [32, 128, 512]
    assert "within 3 s" in {one["question"] for one in answer["advice"]}
    assert answer["batches"][0]["learning_rate"] == 0.25
    words = largebatch("advise", place).stdout
    assert "Soonest" in words
    one = str(next((tmp_path / "runs").iterdir()))
    predicted = json.loads(largebatch("advise", one, "--profile", tmp_path / "profile.json", "--json").stdout)
    assert [row["global_batch_size"] for row in predicted["predicted"]] == [1, 16, 256, 4096]
    assert predicted["critical_batch_size"] == 400.0, "what the run measured: its journal holds no steps of its own"
    held = ["advise", place, "--profile", str(tmp_path / "profile.json"), "--reference", one]
    misses = json.loads(largebatch(*held, "--json").stdout)["prediction_errors"]
    assert [row["global_batch_size"] for row in misses] == [32, 128, 512]
    assert all(abs(row["error"]) < 0.3 for row in misses), "noise scale 400 for a critical batch of 500"
    assert "within 30 % at 2 of 2 batch sizes (the reference run's own left aside)" in largebatch(*held).stdout
    with pytest.raises(InputError, match="holds 6 runs, and a prediction is made from one"):
        largebatch("advise", place, "--profile", tmp_path / "profile.json")
    shown = largebatch("report", place, "--output", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file(), shown.output
    scaled = largebatch("scale", place, "--profile", tmp_path / "profile.json", "--workers", "1,4", "--json")
    assert [row["num_workers"] for row in json.loads(scaled.stdout)] == [1, 4]


def test_a_folder_without_runs(tmp_path: Path) -> None:
    for command in ("advise", "report"):
        with pytest.raises(InputError, match=f"{tmp_path} holds no runs. Give run folders"):
            largebatch(command, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        largebatch("advise", tmp_path / "nowhere")


def test_a_folder_of_a_study_names_it(tmp_path: Path) -> None:
    """`--output-dir` is where studies lie: it held no runs, without a word of them."""
    study = tmp_path / "runs" / "study-digits"
    study.mkdir(parents=True)
    (study / "study.json").touch()
    with pytest.raises(InputError, match=f"holds no runs. Give run folders, or the folder of a sweep or a study, such as {study}."):
        largebatch("compare", tmp_path / "runs")
    made_folder(tmp_path / "runs", 32)
    assert f"Left out: sweeps and studies in {tmp_path / 'runs'}, such as {study}." in largebatch("compare", tmp_path / "runs").output


@pytest.mark.usefixtures("blank_pictures")
def test_a_half_finished_folder_gives_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    runs = [made_folder(tmp_path / "runs", batch) for batch in (32, 128, 512)]
    output = tmp_path / "report"
    command = ["report", str(tmp_path / "runs"), "--output", str(output)]
    (runs[0] / run_folder.SUMMARY).unlink()
    said = largebatch(*command).stdout
    assert f"Left out: 1 runs in {tmp_path / 'runs'} that have not ended." in said
    assert "that have not ended" in (output / "report.html").read_text()
    for run in runs[1:]:
        (run / run_folder.SUMMARY).unlink()
    said = largebatch(*command).stdout
    assert "no run of largebatch has ended" in said
    assert "Left out: 3 runs" in (output / "report.html").read_text()
    with pytest.raises(InputError, match=r"no run that has ended\. Left out: 3 runs"):
        largebatch("advise", tmp_path / "runs")


def test_a_figure_of_scores_that_share_no_axis_is_refused(tmp_path: Path) -> None:
    """Different metrics, and losses of different tasks, whose metric has one name."""
    digits, other = made_folder(tmp_path, 32), made_folder(tmp_path, 128)
    figure = tmp_path / "figure.html"

    def judge(folder: Path, task: dict[str, str], metric: str) -> None:
        spec = json.loads((folder / run_folder.SPEC).read_text())
        (folder / run_folder.SPEC).write_text(json.dumps({**spec, "task": task, "stop": {"epochs": 1.0, "target": {"metric": metric, "value": 1.0}}}))
        summary = json.loads((folder / run_folder.SUMMARY).read_text())
        (folder / run_folder.SUMMARY).write_text(json.dumps({**summary, "headline": {"name": metric, "better": "lower"}}))

    mse = {"name": "regression", "loss": "mse"}
    judge(other, mse, "rmse")
    for words in ("accuracy and rmse of regression", "loss of classification and loss of regression"):
        with pytest.raises(InputError, match=f"--figure: these runs are judged by {words}, which share no axis"):
            largebatch("compare", digits, other, "--figure", figure)
        assert not figure.exists()
        judge(digits, {"name": "classification"}, "loss")
        judge(other, mse, "loss")
    assert "outcome" in largebatch("compare", digits, other).stdout, "a table has no axis"


def test_a_sweep_that_was_cut_short_says_how_many_runs_are_missing(tmp_path: Path) -> None:
    sweep = SweepSpec.model_validate({"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 128, 512]}, "repeats": 2})
    write_text(tmp_path / "sweep.json", sweep.model_dump_json())
    run = made_folder(tmp_path, 32)
    trial = {"number": 0, "group": 0, "phase": "search", "fields": {"batch.global_batch_size": 32, "seed": 0}, "run_id": run.name}
    (tmp_path / "trials.jsonl").write_text(json.dumps(trial) + "\n")
    said = largebatch("advise", tmp_path).stdout
    assert f"Missing: 5 of the sweep's runs; go on with `largebatch sweep --resume {tmp_path}`." in said


def test_comparing_what_is_not_on_one_footing_says_so(tmp_path: Path) -> None:
    here, there = made_folder(tmp_path, 32), made_folder(tmp_path, 128)
    (there / run_folder.ENVIRONMENT).write_text(json.dumps({"device": "H200"}))
    said = largebatch("compare", here, there).stdout
    model = "mlp (depth 2, width 128)"
    assert f"not on one footing, so not to be ranked: {model} on digits, cpu (test) (1); {model} on digits, H200 (1)" in said
    assert "footing" not in largebatch("compare", here, here).stdout
