"""What somebody's modules and task hold in their attributes, and in the plain dicts, lists and objects that these hold."""

import types
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor, nn

from largebatch.jobs.entry_points import ANYTHING

MOST, DEEPEST = 100, 4
"""Of what one dict, list or object holds, and how many steps in, that is looked at: a table is none of counts."""
_OTHERS = ("builtins", "torch", "numpy", "largebatch")
"""Modules of Python's whose objects are not looked into."""


class Step(NamedTuple):
    """One from a holder to what it holds."""

    key: Any
    """An attribute's name, a dict's key, or a place in a list."""
    is_attribute: bool = False

    def __str__(self) -> str:
        return f".{self.key}" if self.is_attribute else f"[{self.key!r}]"


Way = tuple[Step, ...]


def in_words(way: Way) -> str:
    """As it is written in Python: `state['seen'][0]`."""
    return "".join(map(str, way)).removeprefix(".")


def held_by(holder: object) -> Iterator[tuple[Way, Any]]:
    """What a module or a task holds that is no dict, list or object to look into, and the way to it: numbers, tensors, modules. Once each."""
    seen = {id(holder)}
    for step, value in _attributes(holder):
        yield from _inside((step,), value, seen)


def put(holder: Any, way: Way, value: Any) -> None:
    """Let something else stand where a way leads. Raises: what the person's holder raises, such as TypeError for a tuple."""
    *before, last = way
    for step in before:
        holder = getattr(holder, step.key) if step.is_attribute else holder[step.key]
    if last.is_attribute:
        setattr(holder, last.key, value)
    else:
        holder[last.key] = value


def _inside(way: Way, held: Any, seen: set[int]) -> Iterator[tuple[Way, Any]]:
    """Args: seen: the identities of holders that were looked into: one may hold another that holds it."""
    try:
        inner = _steps(held)
    except ANYTHING:  # a stand-in for what is not there yet raises whatever it is asked
        return
    if inner is None:
        yield way, held
    elif id(held) not in seen and len(inner) <= MOST and len(way) < DEEPEST:
        seen.add(id(held))
        for step, value in inner:
            yield from _inside((*way, step), value, seen)


def _steps(held: Any) -> list[tuple[Step, Any]] | None:
    """What a dict, a list or a person's object holds; None for what is none."""
    if isinstance(held, dict):
        return [(Step(key), value) for key, value in held.items()]
    if isinstance(held, list | tuple | deque):
        return [(Step(place), value) for place, value in enumerate(held)]
    is_other = isinstance(held, Tensor | nn.Module | type | types.ModuleType) or type(held).__module__.partition(".")[0] in _OTHERS
    return None if is_other else _attributes(held) or None


def _attributes(held: object) -> list[tuple[Step, Any]]:
    """Of an object of any class, one with `__slots__` too."""
    told = (vars(kind).get("__slots__", ()) for kind in type(held).__mro__)
    slots = chain.from_iterable([names] if isinstance(names, str) else names for names in told)
    in_slots = {slot: getattr(held, slot) for slot in slots if slot not in {"__dict__", "__weakref__"} and hasattr(held, slot)}
    return [(Step(name, is_attribute=True), value) for name, value in {**in_slots, **getattr(held, "__dict__", {})}.items()]
