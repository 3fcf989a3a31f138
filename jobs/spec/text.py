"""Reading a spec's text: bounded in size and nesting, YAML or JSON, every key once, numbers as people write them.

The limits lie far above any spec, and below what would stall or break a reader: aliases without end, texts that cannot be written.
"""

import json
import re
import sys
from collections.abc import Hashable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from largebatch.jobs.errors import SpecError

STANDARD_INPUT = "-"
LARGEST_TEXT = 256 << 10
"""Bytes."""


class Limits(NamedTuple):
    """How large a document may be."""

    deepest: int = 30
    """Levels of nesting."""
    most_values: int = 10_000
    largest_number: int | None = None
    """Beyond it no number is taken; None: any is."""


HERE = Limits()
"""For a person at the machine."""
OVER_THE_NETWORK = Limits(deepest=12, most_values=1 << 20, largest_number=1 << 53)
"""For whoever asks over the network. A body's bytes limit its values already; beyond 2^53 JSON's readers differ."""


def read_document(path: Path) -> dict[str, Any]:
    """A YAML or JSON file's mapping; the path `-` is standard input. Raises: SpecError."""
    return parse_document(_text_of(path), path)


def _text_of(path: Path) -> str:
    """A file's text, read no further than a spec can be long: it may be a pipe without end."""
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == STANDARD_INPUT else path.open("rb") as file:
            content = file.read(LARGEST_TEXT + 1)
        refuse_long(content, str(path))
        return content.decode("utf-8-sig")  # Windows' editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise SpecError(str(path), f"is not UTF-8 text (byte {error.start} is {content[error.start]:#04x}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise SpecError(str(path), f"the recipe cannot be read: {error}.") from error


def parse_document(text: str, path: Path) -> dict[str, Any]:
    """The mapping that a text holds: JSON where the path ends in .json, else YAML. Raises: SpecError."""
    document = (_parse_json if path.suffix == ".json" else parse_yaml)(text, str(path))
    if not isinstance(document, dict):
        raise SpecError(str(path), "a recipe is a mapping of keys to values; this is not.", "See `largebatch recipes`.")
    return document


def _parse_json(text: str, where: str) -> Any:
    refuse_long(text.encode("utf-8", "surrogatepass"), where)
    try:
        document = json.loads(text, object_pairs_hook=each_key_once)
    except GivenTwiceError as error:
        raise SpecError(where, f"{error}.", "Leave one of them out.") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(where, f"is not JSON: {_in_words(error)}.") from error
    refuse_beyond(document, where)
    return document


class GivenTwiceError(ValueError):
    """A key that stands twice in one JSON object."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's mapping; `json` itself would take the last of two. Raises: GivenTwiceError."""
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        raise GivenTwiceError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return document


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says. Args: where: what a mistake is shown under. Raises: SpecError."""
    try:
        import yaml
    except ImportError as error:
        raise SpecError(where, "reading YAML needs PyYAML.", "pip install PyYAML, or write the spec as .json.") from error
    refuse_long(text.encode("utf-8", "surrogatepass"), where)
    refuse_unwritable(text, where)
    try:
        document = yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
        raise SpecError(where, f"is not YAML{place}: {reason}.") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:  # its constructors': !!int x, 2001-99-99
        raise SpecError(where, f"is not YAML: {_in_words(error)}.") from error
    refuse_beyond(document, where)
    return document


def _in_words(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else f"a value cannot be read ({str(error)[:200]})"


NUMBERS = {
    "int": (re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"), "-+0123456789"),
    "float": (
        re.compile(
            r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"
        ),
        "-+0123456789.",
    ),
}
"""By YAML's type, what is one and how it begins. YAML 1.1, which PyYAML follows, takes 1e-3 for text, 010 for 8 and 1:40 for 100;
here the first is a number, and the others are texts, which no field for a number takes."""


def _yaml_loader() -> Any:
    """PyYAML's safe loader, with `NUMBERS`, without dates, and where a key given twice is a mistake."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML copies it for each class that adds to it
            first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in {"int", "float", "timestamp"}]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > HERE.most_values:  # merges of merges double each time
                raise yaml.constructor.ConstructorError(None, None, f"more than {HERE.most_values} keys", node.start_mark)

    for kind, (pattern, beginnings) in NUMBERS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, list(beginnings))

    def mapping_of(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other` gives defaults, which may be overridden
                continue
            key = loader.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # others are refused later
                if key in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
                keys.add(key)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping_of)
    return Loader


def refuse_long(content: bytes, field: str) -> None:
    """Raise SpecError for a text that is longer than any spec."""
    if len(content) > LARGEST_TEXT:
        raise SpecError(field, f"is longer than {LARGEST_TEXT >> 10} KiB.", "No spec is.")


def refuse_beyond(document: Any, field: str, limits: Limits = HERE) -> None:
    """Raise SpecError for plain data that lies beyond the limits, or holds keys or texts that no file can hold."""
    values, count = [(document, 0)], 0
    while values:
        value, depth = values.pop()
        count += 1
        if depth > limits.deepest or count > limits.most_values:
            problem = f"holds more than {limits.most_values} values, or some nested more than {limits.deepest} deep."
            raise SpecError(field, problem, "No spec does.")
        if isinstance(value, str):
            refuse_unwritable(value, field)
        elif isinstance(value, int | float) and limits.largest_number is not None and abs(value) > limits.largest_number:
            raise SpecError(field, f"holds a number beyond {limits.largest_number:,}.", "No field needs that.")
        elif isinstance(value, dict):
            if not all(isinstance(key, str | int | float | None) for key in value):
                raise SpecError(field, "has a key that is no text.", "Put it in quotes.")
            values += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            values += [(part, depth + 1) for part in value]


def refuse_unwritable(text: str, field: str) -> None:
    """Raise SpecError for a text that is not UTF-8, or holds NUL."""
    with suppress(UnicodeEncodeError):
        if b"\0" not in text.encode():
            return
    raise SpecError(field, "holds a text with characters that cannot be written.", "Leave out NUL and what is not UTF-8.")
