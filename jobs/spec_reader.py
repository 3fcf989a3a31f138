"""From a recipe, a YAML or JSON file, or a mapping to a TrainSpec; every mistake becomes one SpecError."""

import difflib
import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic

from jobs import run_folder
from jobs.errors import CheckpointError, SpecError
from jobs.optimizer_spec import EVERY_OPTIMIZER, OPTIMIZER_OPTIONS, OptimizerSpec
from jobs.spec import TrainSpec
from jobs.spec_base import Spec
from jobs.spec_text import STANDARD_INPUT, mapping, parse, parse_yaml, read_document

RECIPES_DIR = Path(__file__).resolve().parent.parent / "recipes"
OTHER_WORDS = {
    **dict.fromkeys(("batch_size", "train_batch_size", "bs", "bsz"), "batch.global_batch_size"),
    "per_device_train_batch_size": "batch.micro_batch_size",
    "lr": "learning_rate.base",
    "wd": "optimizer.weight_decay",
    "betas": "optimizer.beta1 and optimizer.beta2",
    "workers": "the option --workers",
}
"""What other programs call a field, too unlike our name to be recognised by its letters."""


def recipe_paths() -> dict[str, Path]:
    """The recipes that come with this package, by name."""
    return {path.stem: path for path in sorted(RECIPES_DIR.glob("*.yaml"))}


def read_spec(recipe: str, overrides: Iterable[str] = ()) -> TrainSpec:
    """A spec from a recipe's name, a file's path, `-` (standard input) or `env:NAME`, with `key.sub=value` overrides.

    Raises: SpecError.
    """
    if recipe.startswith("env:"):
        path = Path(f"{recipe}.json")
        document = mapping(parse(os.environ.get(recipe.removeprefix("env:"), ""), path), path)
    else:
        path = _find(recipe)
        document = read_document(path)
    document.setdefault("name", _name_after(path))
    changes = [read_override(override) for override in overrides]
    for key, value in changes:
        _apply(document, key, value)
    _forget_the_options_of_another_optimizer(document, {key for key, _ in changes})
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
        raise first_mistake(error, TrainSpec) from None


def entry_points(spec: TrainSpec) -> dict[str, str]:
    """The spec's references to a person's own code, by field."""
    found = {"dataset.entry_point": spec.dataset.entry_point, "model.entry_point": spec.model.entry_point}
    return {field: reference for field, reference in found.items() if reference is not None}


def refuse_unlisted_entry_points(spec: TrainSpec, allowed: Collection[str]) -> None:
    """For specs that arrive over a network: only entry points that the operator listed may run.

    Raises: SpecError.
    """
    for field, reference in entry_points(spec).items():
        if reference not in allowed:
            raise SpecError(
                field,
                f"{reference!r} is not among the entry points that this server's operator allows.",
                f"Allowed: {', '.join(sorted(allowed)) or 'none'}. The operator allows it with: largebatch serve --entry-point {reference}",
            )


def nearest(word: str, known: Iterable[str], listed: Iterable[str] = ()) -> str:
    """A hint with the names most like `word`: "Did you mean ...?", or the whole list (or `listed`, where that is too long)."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join([*listed] or names)}."


def _find(recipe: str) -> Path:
    path = Path(recipe)
    if os.path.isdir(recipe):  # Path.is_dir raises for a name that is too long
        raise SpecError(recipe, "is a folder, not a recipe.", "To go on with a run: --resume RUN_DIR.")
    if recipe == STANDARD_INPUT or _is_readable(recipe):
        return path
    recipes = recipe_paths()
    if recipe in recipes:
        return recipes[recipe]
    raise SpecError("RECIPE", f"{recipe!r} is neither a file nor a recipe.", nearest(recipe, recipes))


def _is_readable(recipe: str) -> bool:
    """Whether a path is a file, or a pipe that a shell made (`<(...)`)."""
    try:
        return any(test(os.stat(recipe).st_mode) for test in (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISCHR))
    except (OSError, ValueError):
        return False


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


def _apply(document: dict[str, Any], key: str, value: Any) -> None:
    parts = key.split(".")
    here = document
    for part in parts[:-1]:
        inner = here.setdefault(part, {})
        if inner is None:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            raise SpecError("--set", f"{key[:200]!r}: {part} holds a value, not keys.")
        here = inner
    here[parts[-1]] = value


def _forget_the_options_of_another_optimizer(document: dict[str, Any], changed: set[str]) -> None:
    """Where an override names another optimizer, leave out what the recipe's own read and this one does not.

    Raises: SpecError where that is more than a default: somebody chose it, and it would be lost.
    """
    options = document.get("optimizer")
    if "optimizer.name" not in changed or not isinstance(options, dict) or options.get("name") not in OPTIMIZER_OPTIONS:
        return
    name = options["name"]
    unread = [option for option in OptimizerSpec.model_fields if option in options and option not in EVERY_OPTIMIZER | OPTIMIZER_OPTIONS[name]]
    for option in unread:
        if f"optimizer.{option}" in changed:
            continue  # what was asked for is refused as in a recipe
        if options[option] != OptimizerSpec.model_fields[option].default:
            raise SpecError(
                "optimizer.name",
                f"{name} does not read {option}, which the recipe sets to {options[option]!r}.",
                f"Give the whole optimizer: --set 'optimizer={{name: {name}}}'.",
            )
        del options[option]


def first_mistake(error: pydantic.ValidationError, root: type[Spec]) -> SpecError:
    """What to tell a person of pydantic's findings, unknown keys first. Args: root: the model that was validated."""
    mistakes = error.errors(include_url=False, include_context=True)
    unknown = [mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"]
    first = (unknown or mistakes)[0]
    path = _path_of(first["loc"], root) or [str(part) for part in first["loc"]]
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        return SpecError(field, "is not a known key.", _meant(path, root))
    if first["type"] == "missing":
        return SpecError(field, "is missing.", _doc(path, root))
    if first["type"] == "value_error":
        return SpecError(field or "spec", f"{first['ctx']['error']}.")
    same_field = [mistake for mistake in mistakes if _path_of(mistake["loc"], root) == path]
    wanted = " or ".join(dict.fromkeys(_wanted(mistake) for mistake in same_field))
    return SpecError(field, f"must be {wanted}, not {_shown(first['input'])}.", _hint(path, first, root))


def _meant(path: Sequence[str], root: type[Spec]) -> str:
    """The known key that an unknown one is most like: beside it, or else anywhere in the spec."""
    word = path[-1]
    if root is TrainSpec and word in OTHER_WORDS:
        return f"Did you mean {OTHER_WORDS[word]}?"
    hint = nearest(word, _keys_at(path[:-1], root))
    if hint.startswith("Did") or root is not TrainSpec:
        return hint
    fields = sorted(_dotted(root), key=lambda field: field.count("."))
    leaves = [field.rpartition(".")[2] for field in fields]
    close = difflib.get_close_matches(word, leaves, n=1, cutoff=0.7)
    return f"Did you mean {fields[leaves.index(close[0])]}?" if close else hint


def _dotted(model: type[Spec], parents: str = "") -> Iterator[str]:
    """The dotted names of all fields that hold a value."""
    for name in model.model_fields:
        inner = _model_of(model, name)
        if inner is None:
            yield parents + name
        else:
            yield from _dotted(inner, f"{parents}{name}.")


def _hint(path: Sequence[str], mistake: Any, root: type[Spec]) -> str:
    """The nearest thing that works, or what the field means."""
    value = mistake["input"]
    if _is_percent(path, value):
        return f"Write {value / 100:g} for {value} %."
    if mistake["type"] == "literal_error" and isinstance(value, str):
        names = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
        if difflib.get_close_matches(value, names, cutoff=0.5):
            return nearest(value, names)
    if mistake["type"] in {"model_type", "model_attributes_type"}:
        return f"Its keys: {', '.join(_keys_at(path, root))}."
    return _doc(path, root)


def _is_percent(path: Sequence[str], value: object) -> bool:
    return path[-1] == "target_accuracy" and isinstance(value, (int, float)) and 1 < value <= 100


def _wanted(mistake: Any) -> str:
    context = mistake.get("ctx", {})
    kind = mistake["type"]
    phrases = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "dict_type": "a mapping",
        "model_type": "a mapping of keys to values",
        "model_attributes_type": "a mapping of keys to values",
        "tuple_type": "a list",
        "greater_than": f"above {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"below {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "literal_error": str(context.get("expected", "")).replace("'", '"'),
        "none_required": "null",
        "finite_number": "a finite number",
        "invalid-json-value": "plain data: text, a number, true or false, a list or a mapping",
    }
    return phrases.get(kind, str(mistake["msg"]))


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # circles, keys that are no texts, numbers of thousands of digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _path_of(location: tuple[int | str, ...], root: type[Spec]) -> tuple[str, ...]:
    """The keys of a mistake's place, without pydantic's names for the branches of a union."""
    path: list[str] = []
    model: type[Spec] | None = root
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
        elif not _is_branch(part) or (model and part in model.model_fields):
            path.append(part)
            model = _inside(model, part)
    return tuple(path)


def _is_branch(part: str) -> bool:
    return part in {"int", "float", "str", "bool", "none"} or "[" in part or part.startswith("constrained-")


def _inside(model: type[Spec] | None, part: str) -> type[Spec] | None:
    """The part of the spec that a key leads to; places of a list and keys of a mapping lead no deeper."""
    if part.isdigit() or (model is not None and part not in model.model_fields):
        return model
    return _model_of(model, part)


def _model_of(model: type[Spec] | None, field: str) -> type[Spec] | None:
    """The part of the spec that a field holds, if it holds one."""
    if model is None or field not in model.model_fields:
        return None
    pending: list[Any] = [model.model_fields[field].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, Spec):
            return annotation
        pending.extend(get_args(annotation))
    return None


def _keys_at(path: Sequence[str], root: type[Spec]) -> list[str]:
    model: type[Spec] | None = root
    for part in path:
        model = _inside(model, part)
    return list(model.model_fields) if model else []


def _doc(path: Sequence[str], root: type[Spec]) -> str:
    model: type[Spec] | None = root
    for part in path[:-1]:
        model = _inside(model, part)
    field = model.model_fields.get(path[-1]) if model else None
    return " ".join((field.description or "").split()) if field else ""


def resumed_spec(run_dir: Path, overrides: Sequence[str]) -> TrainSpec:
    """The spec of a run that was begun, with overrides. Raises: CheckpointError if this is no run folder."""
    path = run_dir / run_folder.SPEC
    if not path.is_file():
        raise CheckpointError("--resume", f"{run_dir} is not a run's folder: it has no {run_folder.SPEC}.", "Give the folder that the run printed.")
    return read_spec(str(path), overrides)
