"""What a form has in it: its fields in groups, what stands in them, and what was typed as a value."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from largebatch.jobs.launch.options import most_workers
from largebatch.jobs.spec.text import parse_yaml
from largebatch.service.job import Job
from largebatch.service.settings import Settings

Typed = Mapping[str, str]
"""What was typed, by the fields' names."""
WAS = "was."
"""Begins the names of hidden fields that say what was chosen when the form was made: what stood in it then was typed by nobody."""


class Field(NamedTuple):
    """One field of a form, named as the error about it is."""

    name: str
    label: str
    value: str = ""
    hint: str = ""
    options: tuple[str, ...] = ()
    """What it is chosen from; empty: it is typed."""
    decides: bool = False
    """Whether other fields follow from it."""


class View(NamedTuple):
    """A form as it is shown."""

    groups: list[tuple[str, list[Field]]]
    """Each with its title."""
    hidden: Mapping[str, str] = MappingProxyType({})
    box: str | None = None
    """Fields of the spec that have no field of their own, one a line; None: there is no such box."""


class Here(NamedTuple):
    """Where a form is filled in, and by whom."""

    find: Callable[[str], Job]
    """Another job of the same kind, for a run of any kind, which the asker may see."""
    settings: Settings


def as_text(value: Any) -> str:
    """A value as it stands in a field, and as `as_value` reads it back."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def as_value(name: str, text: str) -> Any:
    """What a field says, read as after --set; None where it is empty. Raises: SpecError."""
    return parse_yaml(text, name) if text.strip() else None


def list_of(name: str, text: str) -> list[Any]:
    """The values between commas. Raises: SpecError."""
    values = as_value(name, f"[{text}]") if text.strip() else []
    return list(values) if isinstance(values, list) else [values]


RESOURCES = ("gpus", "cpus", "memory_gib", "workers", "priority")


def resource_group(typed: Typed, here: Here, cpus: str, *, is_run: bool) -> tuple[str, list[Field]]:
    """What a job holds while it runs. Args: cpus: what an empty field stands for; is_run: it may have workers."""
    told = {
        "gpus": ("GPUs", "empty: none"),
        "cpus": ("CPU cores", f"empty: {cpus}"),
        "memory_gib": ("Memory, GiB", "empty: 1.5 for each process"),
        "workers": ("Workers", f"such as 4, or 2:8 for as many as there are; empty: {'one' if here.settings.ray_address else 'one process'}"),
        "priority": ("Priority", "higher goes first among your own, from -100 to 100; empty: 0"),
    }
    return "Machine and queue", [Field(name, label, typed.get(name, ""), hint) for name, (label, hint) in told.items() if is_run or name != "workers"]


def resources(typed: Typed) -> dict[str, Any]:
    """What was typed of them, as a submission takes it. Raises: SpecError."""
    values = {name: as_value(name, typed.get(name, "")) for name in RESOURCES if name != "workers"}
    values["workers"] = typed.get("workers", "").strip() or None
    return {name: value for name, value in values.items() if value is not None}


def resources_of(job: Job, settings: Settings) -> dict[str, str]:
    """What a run holds, as it would be typed; nothing where it is what an empty field stands for."""
    cpus = None if job.cpus == settings.cpus else job.cpus
    memory_gib = None if job.memory_gib == settings.usual_memory_gib(most_workers(job.workers)) else job.memory_gib
    held = {"gpus": job.gpus, "cpus": cpus, "memory_gib": memory_gib, "workers": job.workers, "priority": job.priority}
    return {name: as_text(value) for name, value in held.items() if value}
