"""A hook of the site: its reference, of the words that stand in the code: each key of a recipe with its docstring, each command with its help."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo
from typer.main import get_command

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.spec_base import Spec
from largebatch.service.cli.main import COMMANDS, app
from largebatch.tuning.sweep.spec import SweepSpec

ROOT = Path(__file__).resolve().parents[2]
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", dict: "mapping", tuple: "list", list: "list"}
SIGNS = {Gt: ("above", "gt"), Ge: ("from", "ge"), Lt: ("below", "lt"), Le: ("to", "le")}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {"recipe": recipe_page(), "commands": commands_page(), "recipes": recipes_page(), "words": words_page()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def recipe_page() -> str:
    """Every key of a recipe and of a sweep's file."""
    about = "What each key means, its type, and what it is where it is left out. How the parts work together: [the recipe, part by part](../spec.md)."
    sweeps = ["# A sweep's file", "How the parts work together: [sweeps](../sweeps.md)."]
    seen = set[type[Spec]]()
    return "\n\n".join(["# Every key of a recipe", about, *sections(TrainSpec, "", seen), *sweeps, *sections(SweepSpec, "", seen)])


def sections(model: type[Spec], place: str, seen: set[type[Spec]]) -> Iterator[str]:
    """A model's own table, and after it those of the models in it. Args: place: its dotted name; empty: the whole file; seen: told already."""
    if model in seen:
        return
    seen.add(model)
    rows = [
        f"| `{name}` | {in_words(field.annotation, field.metadata)} | {default_of(field)} | {meaning(field)} |"
        for name, field in model.model_fields.items()
    ]
    table = "\n".join(["| key | what it takes | left out | meaning |", "| --- | --- | --- | --- |", *rows])
    yield "\n\n".join([f"## {': '.join([place or 'The whole file', *named(model)])}", told(inspect.getdoc(model), cell=False), table])
    for name, field in model.model_fields.items():
        for part in models_in(field.annotation):
            yield from sections(part, f"{place}.{name}".lstrip("."), seen)


def meaning(field: FieldInfo) -> str:
    """A key's docstring; of a part that has none its own first sentence."""
    parts = models_in(field.annotation)
    return told(field.description or (inspect.getdoc(parts[0]) if len(parts) == 1 else "One of those below.") or "").partition("  ")[0]


def named(model: type[Spec]) -> list[str]:
    """The value of a model's `name`, where it says which of several models it is."""
    field = model.model_fields.get("name")
    return [str(get_args(field.annotation)[0])] if field is not None and get_origin(field.annotation) is Literal else []


def models_in(annotation: Any) -> list[type[Spec]]:
    """The models that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [model for inner in get_args(annotation) if not isinstance(inner, str) for model in models_in(inner)]


def in_words(annotation: Any, metadata: Any = ()) -> str:
    """A type for a person: `whole number above 0, or full`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(inner[0], [*inner[1:], *metadata])
    if origin in {Union, UnionType}:
        return " or ".join(dict.fromkeys(in_words(each) for each in inner if each is not NoneType))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if models_in(annotation):
        keys = "its own keys, below"
        return keys if origin is None else f"{'mapping' if origin is dict else 'list'} of {keys}"
    limits = [
        f"{word} {getattr(limit, attribute):g}" for limit in flat(metadata) for kind, (word, attribute) in SIGNS.items() if isinstance(limit, kind)
    ]
    return " ".join([WORDS.get(origin or annotation, "any value"), *limits])


def flat(metadata: Any) -> list[Any]:
    """Limits, those that a pydantic field holds included."""
    return [limit for each in metadata for limit in (each.metadata if isinstance(each, FieldInfo) else [each])]


def default_of(field: FieldInfo) -> str:
    """What a field is where it is left out."""
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Spec):
        return "its defaults"
    return "" if value in (None, "", (), {}, []) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def told(text: str | None, *, cell: bool = True) -> str:
    """A docstring as Markdown. Args: cell: in one line, for a table."""
    if text is None:
        return ""
    if cell:
        return in_cell(" ".join(text.split())).replace("*", "\\*").replace("<", "&lt;")
    return re.sub(r"(?m)^(?! {4})(.*)$", lambda line: line[0].replace("*", "\\*"), text)


def in_cell(text: str) -> str:
    """A text in a table."""
    return text.replace("|", "\\|")


def commands_page() -> str:
    """Every command with its options."""
    group: Any = get_command(app)
    context = group.make_context("largebatch", [], resilient_parsing=True)
    parts = ["# Every command", "What `largebatch COMMAND --help` says."]
    for name in COMMANDS:
        parts += command_sections(f"largebatch {name}", group.resolve_command(context, [name])[1])
    return "\n\n".join(parts)


def command_sections(name: str, command: Any) -> Iterator[str]:
    """A command's help, example and options; of a group that of each of its commands."""
    if hasattr(command, "commands"):
        for inner, each in command.commands.items():
            yield from command_sections(f"{name} {inner}", each)
        return
    rows = []
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        what = in_cell(parameter.metavar or parameter.name.upper() if is_argument else ", ".join(parameter.opts))
        default = "" if parameter.default in (None, False, "", []) or callable(parameter.default) else f"`{parameter.default}`"
        rows.append(f"| `{what}` | {told(parameter.help)} | {default} |")
    example = (command.epilog or "").removeprefix("Example: ")
    table = "\n".join(["| option | meaning | left out |", "| --- | --- | --- |", *rows])
    yield "\n\n".join([f"## {name}", inspect.cleandoc(command.help), *([f"    {example}"] if example else []), *([table] if rows else [])])


def recipes_page() -> str:
    """Every recipe and sweep that comes along, whole."""
    parts = ["# Recipes that come along", "`largebatch train NAME` trains one, `largebatch plan NAME` says what it would do."]
    for path in [*sorted((ROOT / "recipes").glob("*.yaml")), *sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))]:
        text = path.read_text()
        parts += [f"## {path.stem}", told(yaml.safe_load(text).get("description")), f"```yaml\n{text}```"]
    return "\n\n".join(parts)


def words_page() -> str:
    """The glossary of CONTRIBUTING."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.split("## Glossary\n")[1].split("\n## ")[0]
    return f"# Words\n{table}"
