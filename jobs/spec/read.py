"""From a recipe, a YAML or JSON file, or a mapping to a TrainSpec; every mistake becomes one SpecError."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydantic

import largebatch
from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.alternatives import ALTERNATIVES
from largebatch.jobs.spec.mistakes import first_mistake
from largebatch.jobs.spec.text import STANDARD_INPUT, parse_document, parse_yaml, read_document
from largebatch.jobs.spec.train_spec import TrainSpec

ENDINGS = (".yaml", ".yml", ".json")
"""Of the files that hold recipes."""
RECIPES_DIR = Path(largebatch.__file__).parent / "recipes"


def recipe_paths() -> dict[str, Path]:
    """The recipes that come with this package, by name."""
    return {path.stem: path for path in sorted(RECIPES_DIR.glob("*.yaml"))}


def read_spec(recipe: str, overrides: Iterable[str] = ()) -> TrainSpec:
    """A spec from a recipe's name, a file's path, `-` (standard input) or `env:NAME`, with `key.sub=value` overrides.

    Raises: SpecError.
    """
    if recipe.startswith("env:"):
        path = Path(f"{recipe}.json")
        document = parse_document(os.environ.get(recipe.removeprefix("env:"), ""), path)
    else:
        path = _find(recipe)
        document = read_document(path)
    document.setdefault("name", _name_after(path))
    changes = [read_override(override) for override in overrides]
    section = document.get("optimizer")
    own = str(section.get("name")) if isinstance(section, dict) else ""
    set_fields(document, dict(changes), "--set")
    if own in OPTIMIZERS:
        _forget_the_options_of(own, document, {key for key, _ in changes})
    return build_spec(document)


def _name_after(path: Path) -> str:
    if not path.is_file():  # standard input, a pipe: their numbers mean nothing
        return "run"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem).lstrip(".-") or "run"


def build_spec(document: Mapping[str, Any]) -> TrainSpec:
    """A spec from plain data. Raises: SpecError with the first mistake, unknown keys first."""
    try:
        return TrainSpec.model_validate(document)
    except pydantic.ValidationError as error:
        raise first_mistake(error, TrainSpec, document) from None


def entry_points(spec: TrainSpec) -> dict[str, str]:
    """The spec's references to a person's own code, by field."""
    references = {
        "dataset.entry_point": spec.dataset.entry_point,
        "model.entry_point": spec.model.entry_point,
        "task.entry_point": getattr(spec.task, "entry_point", None),
        "optimizer.entry_point": getattr(spec.optimizer, "entry_point", None),
    }
    return {field: reference for field, reference in references.items() if reference is not None}


def refuse_unlisted_entry_points(spec: TrainSpec, allowed: Collection[str], otherwise: str = "") -> None:
    """For specs that arrive over a network: only entry points that the operator listed may run.

    Args: otherwise: what whoever asks can do without the operator.
    Raises: SpecError.
    """
    refused = {field: reference for field, reference in entry_points(spec).items() if reference not in allowed}
    if not refused:
        return
    (field, reference), *others = refused.items()
    named = " and ".join([repr(reference), *(f"{other} {what!r}" for other, what in others)])
    verb, them = ("are", "them") if others else ("is", "it")
    options = " ".join(f"--entry-point {what}" for what in dict.fromkeys(refused.values()))
    hint = f"{otherwise} Allowed: {', '.join(sorted(allowed)) or 'none'}. The operator allows {them} with: largebatch serve {options}"
    raise SpecError(field, f"{named} {verb} not among the entry points that this server's operator allows.", hint)


def _find(recipe: str) -> Path:
    path = Path(recipe)
    if os.path.isdir(recipe):  # Path.is_dir raises for a name that is too long
        raise SpecError(recipe, "is a folder, not a recipe.", "To go on with a run: --resume RUN_DIR.")
    if recipe == STANDARD_INPUT or os.path.exists(recipe):  # a file, or a pipe that a shell made (`<(...)`)
        return path
    recipes = recipe_paths()
    if recipe in recipes:
        return recipes[recipe]
    meant = _file_like(path)
    hint = f"Did you mean {meant}?" if meant else nearest(recipe, recipes)
    raise SpecError("RECIPE", f"{recipe!r} is neither a file nor a recipe.", hint)


def _file_like(path: Path) -> Path | None:
    """The recipe's file in the same folder whose name is most like this one's; None where none is, or the folder cannot be read."""
    with suppress(OSError, ValueError):
        files = [other for other in path.parent.iterdir() if other.suffix in ENDINGS]
        by_name = {**{other.stem: other for other in files}, **{other.name: other for other in files}}
        close = difflib.get_close_matches(path.name, by_name, n=1, cutoff=0.8)
        return by_name[close[0]] if close else None
    return None


def read_override(override: str) -> tuple[str, Any]:
    """`key.sub=value` as the dotted name and the value, read as YAML. Raises: SpecError."""
    key, equals, value = _as_typed(override).partition("=")
    if not equals or not all(key.strip().split(".")):
        raise SpecError("--set", f"{override[:200]!r} is not of the form key.sub=value.", "Example: --set batch.global_batch_size=512.")
    return key.strip(), parse_yaml(value, f"--set {key.strip()}")


def _as_typed(argument: str) -> str:
    """What a person typed; in a locale that knows ASCII alone, Python keeps other letters as single bytes."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def set_fields(document: dict[str, Any], fields: Mapping[str, Any], blamed: str | None = None) -> None:
    """Set dotted fields of plain data in place; where one of several alternatives is set, the others are left out.

    Args: blamed: what an error names; None: the field.
    Raises: SpecError.
    """
    for field, value in fields.items():
        section, last = _section_of(document, field, blamed)
        section[last] = value
    given = {field for field, value in fields.items() if value is not None} | {field.rpartition(".")[0] for field in fields}
    for alternatives in ALTERNATIVES:
        for field in set(alternatives) - given if given.intersection(alternatives) else ():
            section, last = _section_of(document, field, blamed)
            section.pop(last, None)


def _section_of(document: dict[str, Any], field: str, blamed: str | None) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted field, made where there is none, and the field's last name."""
    *parents, last = field.split(".")
    section = document
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise SpecError(blamed or field, f"{f'{field[:200]!r}: ' if blamed else ''}{parent} holds a value, not keys.")
    return section, last


def _forget_the_options_of(own: str, document: dict[str, Any], changed: set[str]) -> None:
    """Where an override names another optimizer, leave out what the recipe's own read and this one does not.

    Raises: SpecError where that is more than a default: somebody chose it, and it would be lost.
    """
    options = document.get("optimizer")
    if "optimizer.name" not in changed or not isinstance(options, dict) or options.get("name") not in OPTIMIZERS:
        return
    name = options["name"]
    defaults = OPTIMIZERS[own].model_validate({"name": own}).model_dump(mode="json")
    for option in [option for option in options if option in defaults.keys() - OPTIMIZERS[name].model_fields.keys()]:
        if f"optimizer.{option}" in changed:
            continue  # what was asked for is refused as in a recipe
        if options[option] != defaults[option]:
            problem = f"{name} does not read {option}, which the recipe sets to {options[option]!r}."
            raise SpecError("optimizer.name", problem, f"Give the whole optimizer: --set 'optimizer={{name: {name}}}'.")
        del options[option]
