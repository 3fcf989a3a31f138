"""Writes the page on which optimizers are watched side by side, step by step; it holds its script and opens without a network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from largebatch.jobs.whole_files import storage_errors, write_text
from largebatch.tuning.landscape.pictures import ARROW_COLOURS, ARROWS, Scene
from largebatch.tuning.report.charts import COLOURS
from largebatch.tuning.report.plotly_pen import TEMPLATES, as_json, as_script

PAGE = "landscape.html"
DIGITS = 4
"""Significant digits of coordinates: a thousandth of a picture is what an eye sees."""


def write_page(folder: Path, scenes: Sequence[Scene]) -> Path:
    """Write the page of all scenes, which have the same sides. Returns the page. Raises: StorageError."""
    script = as_script([_scene(scene) for scene in scenes])
    legend = [(name, COLOURS[colour]) for name, colour in zip(ARROWS, ARROW_COLOURS, strict=True)]
    sides, page = [path.side.name for path in scenes[0].paths], TEMPLATES.get_template("landscape.html")
    shown = page.render(scenes=scenes, sides=sides, legend=legend, script=script)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PAGE, shown)
    return folder / PAGE


def _scene(scene: Scene) -> dict[str, Any]:
    """What the script needs of one surface: the figure of a panel, and of each side the path and the arrows at each position."""
    return {
        "equation": scene.surface.equation,
        "words": scene.surface.words,
        "conditions": scene.conditions,
        "figure": _rounded(as_json(scene.panel(scene.paths[0], 0))),
        "begins_at": scene.telling_step(scene.paths[1]),
        "sides": [
            {
                "title": f"{path.side.name}: {path.in_words}",
                "path": _rounded(scene.points(path)),
                "arrows": [_rounded(scene.arrows(path, step)) for step in range(len(path.positions))],
            }
            for path in scene.paths
        ],
    }


def _rounded(data: Any) -> Any:
    """The same data, with shorter numbers."""
    return json.loads(json.dumps(data), parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))
