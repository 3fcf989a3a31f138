"""Every place that the schema of a spec has, with what does not belong there: a spec or one sentence, never anything else."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.spec.read import build_spec, read_document, recipe_paths
from largebatch.jobs.spec.train_spec import TrainSpec

SCHEMA = TrainSpec.model_json_schema()
JUNK = (None, -1, float("nan"), "zz", [1], [{}], {"zz": 1}, {"name": "zz"}, [{"zz": 1}])
Place = tuple[tuple[str | int, Any], ...]
"""Keys from the top, each with what stands beside it: the name that tells which of several models is meant, and what that one must have."""


def _branches(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    either = schema.get("anyOf") or schema.get("oneOf")
    if either is None:
        yield schema
    for branch in either or ():
        yield from _branches(branch)


def _places(schema: dict[str, Any], above: Place = ()) -> Iterator[Place]:
    for branch in _branches(schema):
        fields = branch.get("properties", {})
        beside = {name: field["const"] for name, field in fields.items() if "const" in field}
        beside |= {name: "abc" for name in branch.get("required", ()) if name not in beside}
        for name, field in fields.items():
            yield (*above, (name, beside))
            yield from _places(field, (*above, (name, beside)))
        if fields:
            yield (*above, ("zz", beside))
        if isinstance(branch.get("items"), dict):
            yield from _places(branch["items"], (*above, (0, None)))


def _put(document: dict[str, Any], place: Place, junk: object) -> None:
    """Junk at a place of a document; the sections on the way there are made anew, but for the uppermost."""
    node: Any = document
    for depth, (key, beside) in enumerate(place):
        node.update({} if beside is None or depth == 0 else copy.deepcopy(beside)) if isinstance(node, dict) else None
        if depth + 1 == len(place):
            node[key] = junk
        else:
            node[key] = [{}] if place[depth + 1][0] == 0 else {}
            node = node[key]


PLACES = list(_places(SCHEMA))


def test_there_are_many_places() -> None:
    """The walk reaches unions, lists and what lies in them."""
    dotted = {".".join(str(key) for key, _ in place) for place in PLACES}
    assert {"optimizer.groups.0.pattern", "batch.schedule.zz", "stop.target.metric", "task.zz"} <= dotted


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_a_spec_or_one_sentence(junk: object) -> None:
    """A list of parameter groups once ended in a KeyError."""
    recipe = read_document(recipe_paths()["digits-lamb"])
    for place in PLACES:
        document: Any = copy.deepcopy(recipe)
        _put(document, place, copy.deepcopy(junk))
        said = ""
        try:
            build_spec(document)
        except LargebatchError as error:
            said = str(error)
        assert "\n" not in said, place
