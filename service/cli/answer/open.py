"""Shows what was drawn of a run, a sweep or a study: `largebatch open`."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import FIGURE
from largebatch.jobs.tracking.folder_mirror import REPORT

PAGES = (f"{REPORT}/report.html", f"sweep/{REPORT}/report.html", "report.html", FIGURE)
"""What is looked for in a folder, in this order: a sweep's report, a study's, one that `largebatch report` wrote, a run's figure."""
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""One of these is set where a browser can be shown on Linux; browsers for terminals cannot show a report."""

app = typer.Typer()


@app.command("open", epilog="Example: largebatch open runs/digits-batches-20260101-120000")
def open_page(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN|SWEEP|STUDY", help="The folder of a run, a sweep, a study or a report; of several the newest.")
    ],
) -> None:
    """Show a sweep's or a study's report, or a run's figure, in the browser; its path is printed, which is all where there is no browser."""
    pages = {folder: next((folder / page for page in PAGES if (folder / page).is_file()), None) for folder in folders}
    folder = max(folders, key=lambda folder: (pages[folder] is not None, folder.stat().st_mtime if folder.exists() else 0.0))
    page = pages[folder]
    if page is None:
        problem = f"{folder} {'holds neither a report nor a figure yet' if folder.is_dir() else 'is not a folder'}."
        hint = f"Make one of what has ended: largebatch report {folder} --output report" if folder.is_dir() else "Give the folder that was printed."
        raise InputError("RUN|SWEEP|STUDY", problem, hint)
    print(page.resolve())
    if sys.platform in {"darwin", "win32"} or any(os.environ.get(name) for name in DISPLAYS):
        webbrowser.open(page.resolve().as_uri())
