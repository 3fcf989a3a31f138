"""From a recipe, a YAML or JSON file, or a mapping to a TrainSpec; every mistake becomes one SpecError."""

import difflib
import json
import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic

from jobs import run_folder
from jobs.errors import CheckpointError, SpecError
from jobs.spec import Spec, TrainSpec

RECIPES_DIR = Path(__file__).resolve().parent.parent / "recipes"
LARGEST_TEXT = 256 << 10
MOST_VALUES = 10_000
DEEPEST = 30


def recipe_paths() -> dict[str, Path]:
    """The recipes that come with this package, by name."""
    return {path.stem: path for path in sorted(RECIPES_DIR.glob("*.yaml"))}


def read_spec(recipe: str, overrides: Iterable[str] = ()) -> TrainSpec:
    """A spec from a recipe's name, a file's path or `env:NAME`, with `key.sub=value` overrides.

    Raises: SpecError.
    """
    if recipe.startswith("env:"):
        path = Path(f"{recipe}.json")
        document = _mapping(_parse(os.environ.get(recipe.removeprefix("env:"), ""), path), path)
    else:
        path = _find(recipe)
        document = read_document(path)
    document.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem).lstrip(".") or "run")
    for override in overrides:
        _apply_override(document, override)
    return build_spec(document)


def read_document(path: Path) -> dict[str, Any]:
    """A YAML or JSON file's mapping. Raises: SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"the recipe cannot be read: {error}.") from error
    return _mapping(_parse(text, path), path)


def _mapping(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise SpecError(str(path), "a recipe is a mapping of keys to values; this is not.", "See `largebatch recipes`.")
    return document


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
                f"Allowed: {', '.join(sorted(allowed)) or 'none'}.",
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
    if os.path.isfile(recipe):
        return path
    recipes = recipe_paths()
    if recipe in recipes:
        return recipes[recipe]
    raise SpecError("RECIPE", f"{recipe!r} is neither a file nor a recipe.", nearest(recipe, recipes))


def _parse(text: str, path: Path) -> Any:
    if path.suffix != ".json":
        return _parse_yaml(text, str(path))
    _refuse_long(text, str(path))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(str(path), f"is not JSON: {_in_words(error)}.") from error
    _refuse_odd(document, str(path))
    return document


def _parse_yaml(text: str, where: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise SpecError(where, "reading YAML needs PyYAML.", "pip install PyYAML, or write the spec as .json.") from error
    _refuse_long(text, where)
    try:
        document = yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(where, f"is not YAML{place}: {getattr(error, 'problem', None) or 'cannot be parsed'}.") from error
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:  # from its constructors: !!int x, 2001-99-99
        raise SpecError(where, f"is not YAML: {_in_words(error)}.") from error
    _refuse_odd(document, where)
    return document


def _in_words(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else f"a value cannot be read ({str(error)[:200]})"


def _refuse_long(text: str, where: str) -> None:
    if len(text) > LARGEST_TEXT:
        raise SpecError(where, f"is longer than {LARGEST_TEXT >> 10} KiB.", "No spec is.")


def _refuse_odd(document: Any, where: str) -> None:
    """What no spec holds, and what would break or stall whoever reads on: aliases without end, texts that cannot be written."""
    waiting, count = [(document, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            raise SpecError(where, f"holds more than {MOST_VALUES} values, or some nested more than {DEEPEST} deep.", "No spec does.")
        if isinstance(value, str) and not _can_be_written(value):
            raise SpecError(where, "holds a text with characters that cannot be written.", "Leave out NUL and lone surrogates.")
        if isinstance(value, dict):
            if not all(isinstance(key, str | int | float | None) for key in value):
                raise SpecError(where, "has a key that is no text.", "Put it in quotes.")
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            waiting += [(part, depth + 1) for part in value]


def _can_be_written(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _yaml_loader() -> Any:
    """PyYAML's safe loader, but 1e-3 is a number (YAML 1.2), and a key given twice is a mistake."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MOST_VALUES:  # merges of merges double each time
                raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_VALUES} keys", node.start_mark)

    number = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other` gives defaults, which may be overridden
                continue
            key = loader.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # others are refused below
                if key in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
                keys.add(key)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


def read_override(override: str) -> tuple[str, Any]:
    """`key.sub=value` as the dotted name and the value, read as YAML. Raises: SpecError."""
    key, equals, value = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise SpecError("--set", f"{override[:200]!r} is not of the form key.sub=value.", "Example: --set batch.global_batch_size=512.")
    return key.strip(), _parse_yaml(value, f"--set {key}")


def _apply_override(document: dict[str, Any], override: str) -> None:
    key, value = read_override(override)
    parts = key.split(".")
    here = document
    for part in parts[:-1]:
        inner = here.setdefault(part, {})
        if inner is None:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            raise SpecError("--set", f"{override!r}: {part} holds a value, not keys.")
        here = inner
    here[parts[-1]] = value


def first_mistake(error: pydantic.ValidationError, root: type[Spec]) -> SpecError:
    """What to tell a person of pydantic's findings, unknown keys first. Args: root: the model that was validated."""
    mistakes = error.errors(include_url=False, include_context=True)
    unknown = [mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"]
    first = (unknown or mistakes)[0]
    path = _path_of(first["loc"], root) or [str(part) for part in first["loc"]]
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        return SpecError(field, "is not a known key.", nearest(path[-1], _keys_at(path[:-1], root)))
    if first["type"] == "missing":
        return SpecError(field, "is missing.", _doc(path, root))
    if first["type"] == "value_error":
        return SpecError(field or "spec", f"{first['ctx']['error']}.")
    same_field = [mistake for mistake in mistakes if _path_of(mistake["loc"], root) == path]
    wanted = " or ".join(dict.fromkeys(_wanted(mistake) for mistake in same_field))
    return SpecError(field, f"must be {wanted}, not {_shown(first['input'])}.", _hint(path, first, root))


def _hint(path: Sequence[str], mistake: Any, root: type[Spec]) -> str:
    """The nearest thing that works, or what the field means."""
    value = mistake["input"]
    if _is_percent(path, value):
        return f"Write {value / 100:g} for {value} %."
    if mistake["type"] == "literal_error" and isinstance(value, str):
        names = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
        if difflib.get_close_matches(value, names, cutoff=0.5):
            return nearest(value, names)
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
    text = json.dumps(value, default=str)
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
