"""Begins a project: `largebatch init` writes a recipe, a model, data and a test, which run as they stand."""

import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.spec.read import RECIPES_DIR
from largebatch.jobs.whole_files import storage_errors

PROJECTS = RECIPES_DIR / "projects"
"""A folder for each task, whose files are written."""
NAME = "my_project"
"""What recipes in there are called."""

app = typer.Typer()


@app.command(epilog="Example: largebatch init my_project --task regression")
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one without files of these names.")],
    task: Annotated[
        Literal["classification", "regression", "language-modelling", "contrastive"], typer.Option(help="What is to be learned.")
    ] = "classification",
) -> None:
    """Write a recipe, a model, data and a test that run as they stand, to be filled with your own."""
    files = sorted(path for path in (PROJECTS / task).iterdir() if path.is_file())
    there = [path.name for path in files if (folder / path.name).exists()]
    if there:
        raise InputError("FOLDER", f"{folder} has {' and '.join(there)} already.", "Give a new folder.")
    refuse_unwritable(folder, "FOLDER")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, folder / path.name)
        recipe, name = folder / "recipe.yaml", re.sub(r"[^A-Za-z0-9_.-]", "-", folder.resolve().name).lstrip(".-")[:60] or NAME
        recipe.write_text(recipe.read_text().replace(f"name: {NAME}", f"name: {name}"))
    print(f"{folder}: {', '.join(path.name for path in files)}\n")
    print(f"cd {folder}\nlargebatch train recipe.yaml\nlargebatch find-rate recipe.yaml\nlargebatch study recipe.yaml --budget 2m\n")
    print("Then put your own model into model.py and your own data into data.py; pytest says whether they still fit together.")
