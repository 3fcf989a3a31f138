"""Draws how optimizers move on surfaces of one and two dimensions: `largebatch landscape`."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson, refuse_unless_positive
from largebatch.service.cli.tables import print_rows
from largebatch.tuning.landscape import paths
from largebatch.tuning.landscape.page import write_page
from largebatch.tuning.landscape.paths import Noise, roll, sides_of
from largebatch.tuning.landscape.pictures import Scene
from largebatch.tuning.landscape.surfaces import SURFACES, Surface
from largebatch.tuning.report.picture_pen import write_panels

app = typer.Typer()


@app.command(epilog="Example: largebatch landscape --output pictures --momentum 0.8")
def landscape(
    *,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the page and a PNG of each surface go.")] = Path("landscape"),
    surfaces: Annotated[str | None, typer.Option(metavar="NAME,NAME,...", help="Such as saddle-1d,hill-2d. Default: all.")] = None,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = "sgd",
    momentum: Annotated[float, typer.Option(help="Of the sides that have some; adamw's and lamb's beta1.")] = 0.9,
    learning_rate: Annotated[float | None, typer.Option(help="Default: one that suits the surface.")] = None,
    batch: Annotated[float, typer.Option(help="Samples of the gradient that is noisy; inf: no noise.")] = 16.0,
    noise: Annotated[float, typer.Option(help="Standard deviation of one sample's gradient, in each coordinate.")] = 4.0,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="Of each path.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw how gradient descent, momentum, Nesterov's and the noise of a small batch move on slopes, plateaus, saddles and hills.

    Writes one page that opens without a network, and a PNG of each surface.

    Exit codes: 0 done, 2 bad input, 1 a fault of the machine.
    """
    chosen = _surfaces(surfaces)
    if optimizer not in OPTIMIZERS:
        raise SpecError("--optimizer", f"{optimizer!r} is no optimizer.", nearest(optimizer, OPTIMIZERS))
    if not 0 < momentum < 1:
        raise SpecError("--momentum", f"{momentum:g} is not between 0 and 1.", "A side without momentum is always drawn.")
    if not (batch == math.inf or (batch >= 1 and batch.is_integer())):
        raise SpecError("--batch", f"{batch:g} is not a number of samples.", "Give a whole number, or inf for a gradient without noise.")
    if not 0 <= noise < math.inf:
        raise SpecError("--noise", f"{noise:g} is not a number of at least 0.")
    refuse_unless_positive("--learning-rate", learning_rate)
    refuse_unwritable(output, "--output")
    sides, noise_of_samples, scenes = sides_of(optimizer, momentum, batch), Noise(noise, seed), list[Scene]()
    with Console(stderr=True).status("") as status:
        for number, surface in enumerate(chosen, 1):
            status.update(f"{number}/{len(chosen)} {surface.name}")
            scene = Scene(surface, [roll(surface, side, steps, noise_of_samples, learning_rate) for side in sides], noise_of_samples)
            caption = f"{surface.equation}. {surface.words} {scene.conditions}"
            write_panels(scene.panels(), output / f"{surface.name}.png", surface.title, caption)
            scenes.append(scene)
        page = write_page(output, scenes)
    if as_json:
        print_answer(json.dumps({"page": str(page), "paths": [_numbers(path) for scene in scenes for path in scene.paths]}))
        return
    print_rows([{"surface": scene.surface.name, **{path.side.name: path.in_words for path in scene.paths}} for scene in scenes])
    print(f"Page: {page.resolve()}")


def _surfaces(names: str | None) -> list[Surface]:
    """The surfaces of these names, in the given order. Raises: SpecError."""
    known = {surface.name: surface for surface in SURFACES}
    chosen = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise SpecError("--surfaces", f"{name!r} is no surface.", nearest(name, known))
    return [known[name] for name in dict.fromkeys(chosen)]


def _numbers(path: paths.Path) -> dict[str, Any]:
    return {
        "surface": path.surface.name, "side": path.side.name, "optimizer": path.side.config.model_dump(mode="json"),
        "learning_rate": path.learning_rate, "ends": path.in_words, "diverged": path.diverged, "positions": path.positions.tolist(),
    }  # fmt: skip
