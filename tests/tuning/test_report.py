"""The report: in a real browser, light and dark, with every figure drawn, no error and no request; and without one."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_runs import TARGET, made_folder, made_run
from typer.testing import CliRunner

from service.cli import app
from tuning.analysis.prediction import Miss, Predicted
from tuning.analysis.step_time import Profile, ProfilePoint
from tuning.findings import find
from tuning.report import Extras, charts_of, write_report

BATCHES = [32, 128, 512, 2048]
PROFILE = Profile(
    recipe="made", device="cpu (test)", num_train_samples=4096, gradient_bytes=4000, left_out={1: "</script> cannot be"},
    points=[
        ProfilePoint(global_batch_size=b, micro_batch_size=b, seconds_per_step=0.002 + b / 40_000, seconds_per_epoch=4096 / b * 0.002,
                     samples_per_second=1.0, peak_memory_bytes=1, num_steps=5)
        for b in (1, 16, 256, 4096)
    ],
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [made_run(b, seed, momentum=m, factor=1.0 if m else 1.4) for b in BATCHES for seed in range(3) for m in (0.0, 0.9)]
    extras = Extras(PROFILE, [Predicted(32, 1.0, 1.0, 1.0, 0.1)], [Miss(32, 1.3, 1.0)], words=["A word <b>& more</b>."])
    return write_report(tmp_path_factory.mktemp("report"), find(runs), extras)


def test_files(report: Path) -> None:
    numbers = json.loads((report.parent / "report.json").read_text())
    assert numbers["target_accuracy"] == TARGET
    assert [row["global_batch_size"] for row in numbers["batches"]] == BATCHES
    assert numbers["prediction_errors"][0]["error"] == pytest.approx(0.3)
    pictures = {path.stem for path in report.parent.glob("*.png")}
    assert pictures == {
        "time-to-target", "steps-to-target", "samples-to-target", "accuracy-frontier", "cost-frontier", "accuracy-of-batch", "momentum-map",
        "time-of-update", "time-of-epoch", "accuracy-curves",
    }  # fmt: skip
    page = report.read_text()
    assert "<b>& more" not in page
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)\s*=\s*[\"']https?:", page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_in_a_browser(report: Path, tmp_path: Path, scheme: str, width: int) -> None:
    assert CHROMIUM is not None
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={tmp_path}", f"--window-size={width},900",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", *dark, "--dump-dom", report.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.stdout.count('class="figure js-plotly-plot"') == 10
    assert done.stdout.count("main-svg") >= 20, "every figure is drawn"


def test_nothing_reached_still_gives_a_report(tmp_path: Path) -> None:
    found = find([made_run(b, reaches=False) for b in BATCHES])
    assert write_report(tmp_path / "out", found).is_file()
    assert {chart.name for chart in charts_of(found, Extras())} == {"accuracy-frontier", "accuracy-of-batch", "accuracy-curves"}


def test_the_commands_read_folders(tmp_path: Path) -> None:
    for batch in (32, 128, 512):
        for seed in range(2):
            made_folder(tmp_path / "runs", batch, seed)
    (tmp_path / "profile.json").write_text(PROFILE.model_dump_json())
    runner = CliRunner()
    place = str(tmp_path / "runs")
    answer = json.loads(runner.invoke(app, ["advise", place, "--json", "--deadline", "3"], catch_exceptions=False).stdout)
    assert [row["global_batch_size"] for row in answer["batches"]] == [32, 128, 512]
    assert "within 3 s" in {one["question"] for one in answer["advice"]}
    assert answer["batches"][0]["learning_rate"] == 0.25
    words = runner.invoke(app, ["advise", place], catch_exceptions=False).stdout
    assert "Soonest" in words
    one = str(next((tmp_path / "runs").iterdir()))
    predicted = json.loads(runner.invoke(app, ["advise", one, "--profile", str(tmp_path / "profile.json"), "--json"], catch_exceptions=False).stdout)
    assert [row["global_batch_size"] for row in predicted["predicted"]] == [1, 16, 256, 4096]
    shown = runner.invoke(app, ["report", place, "--output", str(tmp_path / "report")], catch_exceptions=False)
    assert (tmp_path / "report" / "report.html").is_file(), shown.output
    scaled = runner.invoke(app, ["scale", place, "--profile", str(tmp_path / "profile.json"), "--workers", "1,4", "--json"], catch_exceptions=False)
    assert [row["num_workers"] for row in json.loads(scaled.stdout)] == [1, 4]


def test_a_folder_without_runs(tmp_path: Path) -> None:
    from jobs.errors import InputError

    with pytest.raises(InputError, match="has not ended"):
        CliRunner().invoke(app, ["advise", str(tmp_path)], catch_exceptions=False)
