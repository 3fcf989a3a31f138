"""The file that `--figure` names: looked at before any work is done, and written as its name ends."""

from pathlib import Path

from largebatch.jobs.errors import SpecError
from largebatch.jobs.whole_files import storage_errors
from largebatch.service.cli.options import refuse_unwritable_file
from largebatch.tuning.report.charts import Chart
from largebatch.tuning.report.picture_pen import write_png
from largebatch.tuning.report.plotly_pen import write_page

WRITERS = {".html": write_page, ".png": write_png}


def refuse_figure(figure: Path | None) -> None:
    """Raise InputError for a file of another kind, or one that cannot be written."""
    if figure is not None and figure.suffix not in WRITERS:
        raise SpecError("--figure", f"{figure.name} ends in neither .html nor .png.", "Choose one of the two.")
    refuse_unwritable_file("--figure", figure)


def write_figure(figure: Path, chart: Chart) -> None:
    """Draw a chart into it. Raises: StorageError."""
    with storage_errors(figure):
        figure.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[figure.suffix](chart, figure)
