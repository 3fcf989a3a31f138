"""The figures: a page that needs no network, and a picture."""

import errno
import os
import re
import struct
from pathlib import Path

import pytest

from jobs.errors import StorageError
from jobs.records import Outcome, RunSummary
from tuning.charts import write_png
from tuning.collect import Evaluation, RunResult
from tuning.figures import accuracy_curves, label, write_page


def result(name: str, curve: tuple[tuple[float, float], ...], target: float | None = None, device: str = "cpu") -> RunResult:
    fields = dict.fromkeys(RunSummary.model_fields)
    numbers = {key: 1 for key in ("micro_batch_size", "gradient_accumulation_steps", "world_size", "steps", "samples_seen")}
    times = {key: 1.0 for key in ("epochs", "training_seconds", "evaluation_seconds", "wall_seconds")}
    given = {"run_id": name, "outcome": Outcome.COMPLETED, "run_dir": name, "global_batch_size": 4096, "target_accuracy": target}
    points = tuple(Evaluation(step, 4096 * step, seconds, accuracy) for step, (seconds, accuracy) in enumerate(curve, start=1))
    summary = RunSummary.model_validate({**fields, **numbers, **times, **given})
    return RunResult(name, summary, points, "mnist", "mlp", "lars", 0.9, 0.1, 3, device, ())


RESULTS = [result("first", ((1.0, 0.5), (2.0, 0.75)), target=0.7), result("second", ((1.0, 0.25),)), result("third", ())]


def test_words() -> None:
    assert label(RESULTS[0]) == "first: batch 4,096, lars, seed 3"
    assert accuracy_curves(RESULTS).title == "Accuracy against training time, cpu"
    assert accuracy_curves([*RESULTS, result("gpu", (), device="H200")]).title == "Accuracy against training time, cpu, H200"


def test_a_page_is_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(accuracy_curves(RESULTS), path)
    page = path.read_text()
    assert not re.search(r"<script[^>]*\ssrc\s*=", page)
    assert not re.search(r"<link[^>]*\shref\s*=\s*[\"']https?:", page)
    for one in RESULTS:
        assert label(one) in page
    assert "target 0.7" in page
    assert page.count("target 0.7") < 3  # one line for one target


def test_a_picture_is_one(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    write_png(accuracy_curves(RESULTS), path)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (1040, 624)  # 8 x 4.8 inches at 130 dots
    assert content.endswith(b"IEND\xaeB`\x82")


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_png(accuracy_curves(RESULTS), tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_runs", [1, 9])
def test_as_many_runs_as_wanted(tmp_path: Path, num_runs: int) -> None:
    """More runs than colours too."""
    runs = [result(f"run-{index}", ((1.0, 0.5),)) for index in range(num_runs)]
    write_png(accuracy_curves(runs), tmp_path / "p.png")
    write_page(accuracy_curves(runs), tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert all(label(run) in page for run in runs)
