"""`largebatch landscape`: its page in a real browser, light and dark, wide and narrow; its pictures; what it says and refuses."""

import json
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from command_line import largebatch
from matplotlib.image import imread
from playwright.sync_api import Browser, Page
from restated_surfaces import RESTATED

from largebatch.jobs.errors import InputError, SpecError
from largebatch.tuning.landscape.page import write_page
from largebatch.tuning.landscape.paths import Noise, roll, sides_of
from largebatch.tuning.landscape.pictures import APART, ARROW_COLOURS, ARROWS, LONGEST, Scene
from largebatch.tuning.landscape.surfaces import SURFACES
from largebatch.tuning.report.charts import COLOURS
from largebatch.tuning.report.picture_pen import write_panels
from largebatch.tuning.report.plotly_pen import to_plotly

NAMES = ("saddle-1d", "hill-2d")
STEPS = 40


def scene(name: str, optimizer: str = "sgd", learning_rate: float | None = None) -> Scene:
    surface = next(surface for surface in SURFACES if surface.name == name)
    noise = Noise(4.0, 0)
    return Scene(surface, [roll(surface, side, STEPS, noise, learning_rate) for side in sides_of(optimizer, 0.9, 16)], noise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landscape")
    shown = largebatch("landscape", "--surfaces", ",".join(NAMES), "--steps", STEPS, "--output", folder)
    assert f"Page: {folder / 'landscape.html'}" in shown.stdout
    (row,) = [line for line in shown.stdout.splitlines() if "saddle-1d" in line]
    assert re.split(r"\s{2,}", row.strip()) == ["saddle-1d", "ends at the saddle", *["ends in the minimum"] * 2, "ends at 0.84"]
    return folder


def test_a_page_without_a_network_and_a_picture_of_each_surface(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"landscape.html", *(f"{name}.png" for name in NAMES)}
    page = (folder / "landscape.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)\s*=\s*[\"']https?:", page)
    for name in NAMES:
        pixels = (imread(folder / f"{name}.png")[..., :3] * 255).round().astype(int)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        for colour in (COLOURS[number] for number in ARROW_COLOURS[1:]):  # at a saddle there is no gradient to draw
            rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
            assert (np.abs(pixels - rgb).max(axis=2) < 3).sum() > 400, (name, colour)  # the legend's line alone has about 170


@pytest.mark.parametrize("name", [surface.name for surface in SURFACES])
def test_arrows_are_drawn_where_the_ball_is_and_as_long_as_the_caption_says(name: str) -> None:
    drawn = scene(name)
    of_gradients, of_moves = drawn.arrow_scales
    rate = drawn.surface.learning_rate
    assert of_gradients == pytest.approx(rate * of_moves), "real = momentum * last + rate * negative gradient can be seen"
    assert f"Learning rate {rate:g}; noise of standard deviation 4 in one sample, 1 in a batch of 16, seed 0." in drawn.conditions
    lengths = []
    for path in drawn.paths:
        for step in range(STEPS):
            vectors = [path.negative_gradients[step] * of_gradients, path.last_moves[step] * of_moves, path.real_moves[step] * of_moves]
            ball = drawn.points(path)[step]
            if drawn.surface.num_dimensions == 1:
                assert ball[1] == pytest.approx(RESTATED[name](ball[0])[0])
            for vector, (tail, tip) in zip(vectors, drawn.arrows(path, step), strict=True):
                assert tail[0] == ball[0] or drawn.surface.num_dimensions == 2
                assert np.hypot(*np.subtract(tail, ball)) <= APART * drawn.surface.width * 1.001 or drawn.surface.num_dimensions == 1
                moved = np.subtract(tip, tail)[: drawn.surface.num_dimensions]
                assert moved.tolist() == pytest.approx(vector.tolist()) or (not moved.any() and vector.norm() < 0.015 * drawn.surface.width)
                lengths.append(vector.norm().item())
    assert max(lengths) == pytest.approx(LONGEST * drawn.surface.width)


def test_the_telling_step_is_at_the_subject() -> None:
    for name, most in (("saddle-1d", 0.2), ("hill-1d", 0.4)):
        drawn = scene(name)
        momentum = drawn.paths[1]
        at = drawn.telling_step(momentum)
        assert abs(momentum.positions[at].item() - drawn.surface.subject[0]) < most
        assert 0 < at < STEPS


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("lamb", None), ("sgd", 10.0), ("sgd", 1e300)], ids=["another", "diverging", "at once"])
@pytest.mark.parametrize("name", NAMES)
def test_panels_of_another_optimizer_and_of_one_that_diverges(tmp_path: Path, name: str, optimizer: str, learning_rate: float | None) -> None:
    drawn = scene(name, optimizer, learning_rate)
    for panel in drawn.panels():
        traces = to_plotly(panel).data
        assert traces[0].type == ("contour" if name.endswith("2d") else "scatter")
        assert [trace.name for trace in traces][-5:] == ["path", *ARROWS, "ball"]
        assert [trace.marker.symbol for trace in traces[-4:-1]] == ["arrow"] * 3
    folder = tmp_path / "page"
    json.loads(write_page(folder, [drawn]).read_text().partition("const scenes = ")[2].partition(";\n")[0], parse_constant=pytest.fail)
    write_panels(drawn.panels(), folder / "picture.png", "title", drawn.conditions)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), pytest.param("dark", 400, marks=pytest.mark.slow)])
def test_in_a_browser(browser: Browser, folder: Path, scheme: Literal["light", "dark"], width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "landscape.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.panel .main-svg').length >= 8")
    columns = page.evaluate("new Set([...panels.children].map(panel => panel.getBoundingClientRect().x)).size")
    assert columns == (2 if width == 1300 else 1)
    if scheme == "light":
        walk_through(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    text, paper = page.evaluate("[getComputedStyle(document.querySelector('.gtitle')).fill, getComputedStyle(document.body).backgroundColor]")
    brightness = [sum(int(part) for part in re.findall(r"\d+", colour)[:3]) for colour in (text, paper)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark"), "the figures follow the page's colours"
    assert Axe().run(page).response["violations"] == []
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == [], "the page asks nobody"
    context.close()


def walk_through(page: Page) -> None:
    """Step by step, one surface and the next, all sides and one, by hand and played."""

    def ball(number: int) -> list[float]:
        """Where the ball of a panel is."""
        found: list[float] = page.evaluate("n => { const ball = panels.children[n].data.at(-1); return [ball.x[0], ball.y[0]]; }", number)
        return found

    saddle = scene("saddle-1d")
    for step in (0, 7, STEPS):
        page.locator("#step").fill(str(step))
        for number, path in enumerate(saddle.paths):
            assert ball(number) == pytest.approx(saddle.points(path)[step], rel=1e-3, abs=1e-6)
    page.select_option("#surface", "1")
    assert "exp(-2(x + 2)²" in page.inner_text("#words")
    assert page.locator(".panel .contour").count() > 0
    page.select_option("#side", label="momentum 0.9")
    assert page.locator(".panel").count() == 1
    page.locator("#step").fill("6")
    page.locator("#step").press("ArrowRight")
    assert ball(0) == pytest.approx(scene("hill-2d").points(scene("hill-2d").paths[1])[7], rel=1e-3, abs=1e-6)
    page.locator("#step").fill(str(STEPS - 4))
    page.locator("#play").click()
    page.wait_for_function(f"document.querySelector('#at').value === '{STEPS} of {STEPS}'")
    assert page.inner_text("#play") == "Play"


def test_numbers(tmp_path: Path) -> None:
    answer = json.loads(largebatch("landscape", "--surfaces", "ridge-2d", "--steps", 20, "--batch", "inf", "--json", "--output", tmp_path).stdout)
    assert answer["page"] == str(tmp_path / "landscape.html")
    plain, momentum, _, endless = answer["paths"]
    assert plain["positions"] == endless["positions"]
    assert endless["side"] == "gradient descent, endless batch"
    assert momentum["optimizer"]["momentum"] == 0.9
    assert len(momentum["positions"]) == 21


@pytest.mark.parametrize(("arguments", "told"), [
    (("--surfaces", "sadle-1d"), "--surfaces: 'sadle-1d' is no surface. Did you mean saddle-1d"),
    (("--optimizer", "sdg"), "--optimizer: 'sdg' is no optimizer."),
    (("--momentum", "1"), "--momentum: 1 is not between 0 and 1."), (("--batch", "1.5"), "--batch: 1.5 is not a number of samples."),
    (("--batch", "0"), "--batch: 0 is not"), (("--batch", "nan"), "--batch: nan is not"), (("--noise", "nan"), "--noise: nan is not"),
    (("--learning-rate", "0"), "--learning-rate: 0 is not"),
])  # fmt: skip
def test_what_it_does_not_take(tmp_path: Path, arguments: tuple[str, str], told: str) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        largebatch("landscape", "--output", tmp_path / "new", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        largebatch("landscape", "--output", tmp_path / "file")
