"""`largebatch open`: which page it shows, and what it says where there is none."""

import os
from pathlib import Path

import pytest
from command_line import largebatch

from largebatch.jobs.errors import InputError


@pytest.mark.parametrize("page", ["figure.png", "report.html", "report/report.html", "sweep/report/report.html"])
def test_a_browser_is_given_what_was_drawn(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / page).touch()
    assert largebatch("open", tmp_path, DISPLAY=":0").stdout == f"{tmp_path / page}\n"
    assert shown == [(tmp_path / page).as_uri()]
    assert largebatch("open", tmp_path, DISPLAY="", WAYLAND_DISPLAY="", BROWSER="").stdout == f"{tmp_path / page}\n"
    assert len(shown) == 1


def test_of_several_the_newest_is_shown(tmp_path: Path) -> None:
    """As a shell gives them, by name."""
    for age, name in ((20, "b"), (10, "c"), (30, "d")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "figure.png").touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "drawn by nobody").mkdir()
    folders = [tmp_path / name for name in ("b", "c", "d", "drawn by nobody")]
    assert largebatch("open", *folders, DISPLAY="", WAYLAND_DISPLAY="", BROWSER="").stdout == f"{tmp_path / 'c' / 'figure.png'}\n"


def test_nothing_was_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither a report nor a figure yet"):
        largebatch("open", tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        largebatch("open", tmp_path / "nowhere")
