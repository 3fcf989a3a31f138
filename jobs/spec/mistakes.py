"""What to tell a person of a mistake in a spec: one sentence with the field, what is wrong, and the nearest thing that works."""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import pydantic

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.spec_base import Spec

OTHER_WORDS = {
    **dict.fromkeys(("batch_size", "train_batch_size", "bs", "bsz", "size"), "batch.global_batch_size"),
    **dict.fromkeys(("per_device_train_batch_size", "micro_batch"), "batch.micro_batch_size"),
    "lr": "learning_rate.base",
    "wd": "optimizer.weight_decay",
    "betas": "optimizer.beta1 and optimizer.beta2",
    "eps": "optimizer.epsilon",
    **dict.fromkeys(("warmup", "warmup_steps", "warmup_ratio"), "learning_rate.warmup_epochs"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_scheduler_type", "schedule"), "learning_rate.decay"),
    **dict.fromkeys(("max_steps", "num_steps", "iterations"), "stop.steps"),
    **dict.fromkeys(("max_epochs", "num_epochs", "num_train_epochs"), "stop.epochs"),
    **dict.fromkeys(("target", "accuracy", "target_acc"), "stop.target_accuracy"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "gradient_clip_val", "clip"), "gradient.clip_norm"),
    **dict.fromkeys(("amp", "fp16", "bf16", "mixed_precision"), "precision=bfloat16"),
    **{name: f"the option --{name.replace('_', '-')}" for name in ("workers", "device", "data_dir", "output_dir", "resume", "address")},
}
"""What other programs call a field, too unlike our name to be recognised by its letters."""
IN_GROUPS = {"lr": "learning_rate_factor", "wd": "weight_decay"}
"""What two of them are in optimizer.groups, where each group has its own."""
MAIN_KEYS = {
    "dataset": "name",
    "model": "name",
    "batch": "global_batch_size",
    "optimizer": "name",
    "learning_rate": "base",
    "stop": "epochs",
    "task": "name",
}
"""What a person means who gives one value in place of a section."""
WHY_OTHERS = {"weight_decay_time_scale": "it is for decoupled weight decay"}
"""Why an option is some optimizers' alone, where its name does not say it."""
BRANCH = re.compile(r"(int|float|str|bool|none)$|constrained-|.*\[")
"""What pydantic calls a branch of a union of plain types."""


def refuse_unknown_arguments(section: str, name: str, arguments: Iterable[str], known: Collection[str]) -> None:
    """Raise SpecError for an argument that a model or data set does not take. Args: section: "model" or "dataset"."""
    for argument in arguments:
        if argument not in known:
            hint = nearest(argument, known) if known else f"{name} takes no arguments."
            raise SpecError(f"{section}.arguments.{argument}", "is not a known key.", hint)


def cannot_be_built(name: str, from_data: Mapping[str, Any], arguments: Mapping[str, Any], reason: str) -> SpecError:
    """Where a library refuses to build a model. Args: from_data: what was not given, and follows from the data; reason: in the library's words."""
    sizes = ", ".join(f"{option} {value}" for option, value in from_data.items() if option not in arguments)
    follows = f" and what follows from the data ({sizes})" if sizes else ""
    return SpecError("model.arguments", f"{name} cannot be built with them{follows}: {reason.rstrip('.')}.")


def first_mistake(error: pydantic.ValidationError, root: type[Spec], document: Any = None) -> SpecError:
    """What to tell a person of pydantic's findings, unknown keys first; what is wrong besides comes along as `others`.

    Args: root: the model that was validated; document: what was given to it.
    """
    found = [_of_the_name(mistake) for mistake in error.errors(include_url=False, include_context=True)]
    unread = [mistake for mistake in found if _is_read_by_another(mistake, root)]
    unknown = [mistake for mistake in found if mistake["type"] == "extra_forbidden" and mistake not in unread]
    in_order = [*unknown, *(mistake for mistake in found if mistake not in unknown)]
    by_field: dict[str, SpecError] = {}
    for mistake in in_order:
        told = _not_read(mistake, unread, root, document) if mistake in unread else _told(mistake, found, root, document)
        by_field.setdefault(told.field, told)
    first, *others = by_field.values()
    # Beside what is wrong inside of a part stands what another branch of the same union would have it be.
    first.others = [other for other in others if not any(field.startswith(f"{other.field}.") for field in by_field)]
    return first


def _told(mistake: Any, found: Sequence[Any], root: type[Spec], document: Any) -> SpecError:
    """One mistake in words. Args: found: all, of which some are of other branches of the same union."""
    path = _followed(mistake["loc"], root)[0] or tuple(map(str, mistake["loc"]))
    field = ".".join(path)
    if mistake["type"] == "extra_forbidden":
        return SpecError(field, "is not a known key.", _meant(path, root))
    if mistake["type"] == "missing":
        return SpecError(field, "is missing.", _doc(path, root, document))
    if mistake["type"] == "value_error":
        problem = str(mistake["ctx"]["error"])
        if named := re.match(r"([a-z_]+(?:\.[a-z_]+)*): ", problem):  # a check of several fields says of which it is
            field, problem = ".".join([*path, named[1]]), problem[named.end() :]
        return SpecError(field or "spec", problem if problem.endswith((".", "?")) else f"{problem}.")
    same_field = [other for other in found if _followed(other["loc"], root)[0] == path]
    wanted = " or ".join(dict.fromkeys(_wanted(other) for other in same_field))
    return SpecError(field, f"must be {wanted}, not {_shown(mistake['input'])}.", _hint(path, mistake, root, document))


def plain_mistake(mistake: Mapping[str, Any]) -> str:
    """What is wrong with one value, by pydantic's finding, where no more is known of its place."""
    if mistake["type"] == "extra_forbidden":
        return "is not a known key."
    if mistake["type"] == "missing":
        return "is missing."
    if mistake["type"] in {"value_error", "json_invalid"}:
        return f"{str(mistake.get('ctx', {}).get('error', mistake['msg'])).rstrip('.')}."
    return f"must be {_wanted(mistake)}, not {_shown(mistake.get('input'))}."


def _of_the_name(mistake: Any) -> Any:
    """A mistake in what tells the models of a union apart, as one of the field `name`."""
    location = (*mistake["loc"], "name")
    if mistake["type"] == "union_tag_not_found" and not isinstance(mistake["input"], dict):
        return {**mistake, "type": "model_type"}
    if mistake["type"] == "union_tag_not_found":
        return {**mistake, "type": "missing", "loc": location}
    if mistake["type"] == "union_tag_invalid":
        known = " or ".join(mistake["ctx"]["expected_tags"].rsplit(", ", 1))
        return {**mistake, "type": "literal_error", "loc": location, "input": mistake["input"]["name"], "ctx": {"expected": known}}
    return mistake


def _is_read_by_another(mistake: Any, root: type[Spec]) -> bool:
    """Whether an unknown key is known to another model of the same union, such as another optimizer."""
    return mistake["type"] == "extra_forbidden" and mistake["loc"][-1] in _keys_at(_followed(mistake["loc"], root)[0][:-1], root)


def _not_read(mistake: Any, unread: Sequence[Any], root: type[Spec], document: Any) -> SpecError:
    section, name = mistake["loc"][:-1], mistake["loc"][-2]
    options = sorted(str(other["loc"][-1]) for other in unread if other["loc"][:-1] == section)
    path, (model,) = _followed(section, root)
    known = ", ".join(sorted(model.model_fields.keys() - {"name"}))
    whose = f"{name} ({entry_point})" if (entry_point := _told_at(document, path).get("entry_point")) else name
    readers = [f"{option}: {WHY_OTHERS[option]}, and read by {_readers(option, path, root)}." for option in options if option in WHY_OTHERS]
    return SpecError(".".join(path), f"{whose} does not read {', '.join(options)}; it reads {known}.", " ".join(readers))


def _told_at(document: Any, path: Sequence[str]) -> Mapping[str, Any]:
    """The section of a document at a path; empty where there is none."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else {}


def _readers(option: str, path: Sequence[str], root: type[Spec]) -> str:
    """The names of a union's models that have an option."""
    models = _followed(path, root)[1]
    return ", ".join(sorted({_names(model)[0] for model in models if option in model.model_fields}))


def _meant(path: Sequence[str], root: type[Spec]) -> str:
    """The known key that an unknown one is most like: of this very name elsewhere, beside it, or of a name like it elsewhere."""
    word, beside = path[-1], _keys_at(path[:-1], root)
    if root is not TrainSpec:
        return nearest(word, beside)
    if path[0] in {"dataset", "model"} and len(path) == 2 and not difflib.get_close_matches(word, beside, cutoff=0.7):
        return f"Arguments of your own stand in {path[0]}.arguments: did you mean {path[0]}.arguments.{word}?"
    if word in OTHER_WORDS:
        of_groups = IN_GROUPS.get(word) if tuple(path[:2]) == ("optimizer", "groups") else None
        return f"Did you mean {of_groups or OTHER_WORDS[word]}?"
    if word in MAIN_KEYS and len(path) > 1:
        return f"Did you mean {word}.{MAIN_KEYS[word]}?"
    if difflib.get_close_matches(word, beside, cutoff=0.8):
        return nearest(word, beside)
    fields = sorted(_dotted(root), key=lambda field: field.count("."))
    leaves = [field.rpartition(".")[2] for field in fields]
    if word in leaves:
        return f"Did you mean {fields[leaves.index(word)]}?"
    hint = nearest(word, beside)
    close = difflib.get_close_matches(word, leaves, n=1, cutoff=0.7)
    return f"Did you mean {fields[leaves.index(close[0])]}?" if close and not hint.startswith("Did") else hint


def field_called(word: str) -> str | None:
    """The field that a person means by a word, or by one like it: dotted, with its value where the word says that too; None for no field."""
    if word in OTHER_WORDS:
        return None if " " in OTHER_WORDS[word] else OTHER_WORDS[word]
    if word in MAIN_KEYS:
        return f"{word}.{MAIN_KEYS[word]}"
    fields = {field.rpartition(".")[2]: field for field in sorted(_dotted(TrainSpec), key=lambda field: -field.count("."))}
    close = difflib.get_close_matches(word, fields, n=1, cutoff=0.7)
    return fields[close[0]] if close else None


def _dotted(model: type[Spec], parents: str = "") -> Iterator[str]:
    """The dotted names of all fields that hold a value."""
    for name, field in model.model_fields.items():
        inner = _models_in(field.annotation)
        if not inner:
            yield parents + name
        for branch in inner:
            yield from _dotted(branch, f"{parents}{name}.")


def _hint(path: Sequence[str], mistake: Any, root: type[Spec], document: Any) -> str:
    """The nearest thing that works, or what the field means."""
    value, section = mistake["input"], path[:-1]
    others = [name for model in _followed(section, root)[1] for name in _names(model)]
    if path[-1] == "name" and value in others and (entry_point := _told_at(document, section).get("entry_point")):
        name = ".".join(section)
        return f"{name}.entry_point says {entry_point}, a {name} of your own; another is given whole: --set '{name}={{name: {value}}}'."
    if path[-1] == "target_accuracy" and isinstance(value, int | float) and 1 < value <= 100:
        return f"Write {value / 100:g} for {value} %."
    if path[-1] == "target" and isinstance(value, int | float):
        return "A target in another metric is {metric: loss, value: 1.5}; in accuracy, did you mean stop.target_accuracy?"
    if mistake["type"] == "literal_error" and isinstance(value, str):
        names = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
        if difflib.get_close_matches(value, names, cutoff=0.5):
            return nearest(value, names)
    if mistake["type"] in {"model_type", "model_attributes_type"}:
        models = _followed(path, root)[1]
        keys = ", ".join(key for key in _keys_at(path, root) if all(key in model.model_fields for model in models))
        keys = f"Its keys: {keys}{', and those of the one that is named' if len(models) > 1 and all(map(_names, models)) else ''}."
        if not isinstance(value, dict | list) and ".".join(path) in MAIN_KEYS:
            return f"Did you mean {'.'.join(path)}.{MAIN_KEYS['.'.join(path)]}? {keys}"
        return keys
    if mistake["type"] == "string_type" and isinstance(value, bool | int | float):
        quoted = f'{".".join(path)}="{_shown(value)}"'
        return f"{_doc(path, root, document)} In quotes it is text: --set '{quoted}'.".strip()
    return _doc(path, root, document)


def _wanted(mistake: Any) -> str:
    context = mistake.get("ctx", {})
    phrases = {
        **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number"),
        **dict.fromkeys(("float_type", "float_parsing"), "a number"),
        **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
        **dict.fromkeys(("tuple_type", "list_type"), "a list"),
        **dict.fromkeys(("model_type", "model_attributes_type"), "a mapping of keys to values"),
        **dict.fromkeys(("literal_error", "enum"), str(context.get("expected", "")).replace("'", '"')),
        "string_type": "text",
        "dict_type": "a mapping",
        "string_unicode": "text that UTF-8 can write",
        "too_long": f"at most {context.get('max_length')} in number",
        "greater_than": f"above {context.get('gt', 0):g}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"below {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "none_required": "null",
        "finite_number": "a finite number",
        "string_too_long": f"at most {context.get('max_length')} letters long",
        "string_too_short": f"at least {context.get('min_length')} letters long",
        "invalid-json-value": "plain data: text, a number, true or false, a list or a mapping",
    }
    return phrases.get(mistake["type"], str(mistake["msg"]))


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # circles, keys that are no texts, numbers of thousands of digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _followed(location: Sequence[int | str], root: type[Spec]) -> tuple[tuple[str, ...], tuple[type[Spec], ...]]:
    """Where a location of pydantic's leads.

    Returns: its keys, without pydantic's names for the branches of a union; and the part of the spec that they lead to: several models, told
    apart by `name`, where it is a union. Places of a list and keys of a mapping lead no deeper.
    """
    path: list[str] = []
    models: tuple[type[Spec], ...] = (root,)
    for part in map(str, location):
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        named = tuple(model for model in models if len(models) > 1 and part in _names(model))
        if annotations:
            models = tuple(inner for annotation in annotations for inner in _models_in(annotation))
        elif named:
            models = named
        if annotations or not (named or BRANCH.match(part)):
            path.append(part)
    return tuple(path), models


def _names(model: type[Spec]) -> tuple[str, ...]:
    """What a model of a union may have for its `name`; nothing where the models are not told apart by it."""
    return get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()


def _models_in(annotation: Any) -> list[type[Spec]]:
    """The parts of a spec that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]


def _keys_at(path: Sequence[str], root: type[Spec]) -> list[str]:
    return list(dict.fromkeys(key for model in _followed(path, root)[1] for key in model.model_fields))


def _doc(path: Sequence[str], root: type[Spec], document: Any) -> str:
    """What a field means: in the model of a union that is named beside it, or in all of them."""
    models, name = _followed(path[:-1], root)[1], _told_at(document, path[:-1]).get("name")
    models = tuple(model for model in models if name in _names(model)) or models
    fields = [model.model_fields[path[-1]] for model in models if path[-1] in model.model_fields]
    return " ".join(" ".join(dict.fromkeys(field.description or "" for field in fields)).split())
