"""A job as the commands that a person would type: to train it on a machine of their own, and to submit it to a service."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from largebatch.jobs.errors import SpecError
from largebatch.jobs.spec.read import build_spec, recipe_paths, set_fields
from largebatch.jobs.spec.text import read_document
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.params import flat

LINES = " \\\n  "
"""Between the options of a command that takes a line for each."""
NO_TEXT_IN_YAML = {"true", "false", "null", "yes", "no", "on", "off"}


def changes_of(recipe: str | None, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields by which a whole spec differs from a recipe that comes along; None where it cannot be told so."""
    path = recipe_paths().get(recipe or "")
    if path is None:
        return None
    document = {"name": path.stem, **read_document(path)}
    before, after = flat(build_spec(document).model_dump(mode="json")), flat(dict(spec))
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    if before["optimizer.name"] != after["optimizer.name"]:  # the options of one mean nothing to the other
        changed = {name: value for name, value in changed.items() if not name.startswith("optimizer.")}
        changed["optimizer"] = TrainSpec.model_validate(spec).optimizer.model_dump(mode="json", exclude_defaults=True)
    try:
        set_fields(document, changed)
        is_whole = build_spec(document).model_dump(mode="json") == dict(spec)
    except SpecError:
        is_whole = False
    return changed if is_whole else None


def spec_command(command: str, recipe: str | None, spec: Mapping[str, Any], options: str = "") -> str:
    """A command with a spec: a recipe with its changes, or the whole spec on standard input. Args: options: the command's own."""
    changes = changes_of(recipe, spec)
    if changes is not None:
        return f"{command} {recipe}{options}{set_options(changes, LINES)}"
    whole = TrainSpec.model_validate(spec).model_dump(mode="json", exclude_defaults=True)
    return f"{command} -{options} <<'END'\n{json.dumps(whole, indent=2)}\nEND"


def set_options(changes: Mapping[str, Any], before_each: str = " ") -> str:
    """Changes as options of a command."""
    return "".join(f"{before_each}--set {shlex.quote(f'{name}={_as_yaml(value)}')}" for name, value in changes.items())


def budget_command(job_id: str, minutes: str) -> str:
    """The command that lets a study go on with more time. Args: minutes: as --budget takes them."""
    return f"largebatch remote resume {job_id} --budget {minutes}"


def as_a_service_says_it(job_id: str, reason: str) -> str:
    """Why a job has failed, with a study's advice to its own command as the one that a service's people can follow."""
    return re.sub(r"Use --budget (\d+m)(?: --resume \S+)?[^.]*", lambda found: f"Use: {budget_command(job_id, found[1])}", reason)


def file_command(command: str, file: str, document: Mapping[str, Any], options: str = "") -> str:
    """A command that reads a file, with the file before it."""
    return f"cat > {file} <<'END'\n{json.dumps(document, indent=2)}\nEND\n{command} {file}{options}"


def _as_yaml(value: Any) -> str:
    """A value as it is typed after --set: YAML, of which JSON is a part."""
    is_plain = isinstance(value, str) and value.isidentifier() and value.lower() not in NO_TEXT_IN_YAML
    return str(value) if is_plain else json.dumps(value)
