"""Random texts and documents through the spec reader: each gives a spec or one sentence, soon; never anything else."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.spec.read import build_spec, read_document, read_spec, recipe_paths
from largebatch.jobs.spec.train_spec import TrainSpec

QUICK = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
RECIPES = sorted(recipe_paths())
KEYS = sorted({*TrainSpec.model_fields, *(key for field in json.loads(json.dumps(TrainSpec.model_json_schema()))["$defs"].values()
               for key in field.get("properties", {}))})  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["full", "auto", "sgd", "lamb", "digits", "mlp", "", "1e3"]),
    st.sampled_from([0, 1, -1, 10**30, 10**400, -(10**30), float("nan"), float("inf"), 1e308]), st.binary(max_size=3), st.dates(),
)  # fmt: skip
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5) | st.integers(), inner, max_size=5),
    max_leaves=30,
)
WORDS = st.sampled_from([
    "a", "dataset", "digits", ":", ": ", "- ", "\n", "\n  ", "{", "}", "[", "]", ",", "&a ", "*a ", "<<: *a", "? ", "|\n", ">\n", "!!int ",
    "!!float x", "!!binary ", "!!set ", "!!timestamp ", "!!bool maybe", "!!omap ", "!!python/object:os.system ", "2001-99-99", "1:99:99", "0b2",
    "0x", "0_", ".inf", ".nan", "~", "'", '"', "%YAML 9.9\n---\n", "---\n", "...\n", "#", "@", "`", "\t", "\0", "\x85", "\ufeff", "9" * 5000, "1e999",
])  # fmt: skip


def one_sentence(read: Callable[[], Any]) -> None:
    """It reads, or says in one line why not, and does not take long."""
    began_s, said = time.monotonic(), "a spec"
    try:
        read()
    except LargebatchError as error:
        said = str(error)
    assert 0 < len(said) < 20_000, "at most a key that was given"
    assert "\n" not in said
    said.encode()
    assert time.monotonic() - began_s < 5.0


def any_document(document: Any) -> None:
    one_sentence(lambda: build_spec(document if isinstance(document, dict) else {"spec": document}).model_dump_json())


def anything_put_anywhere(recipe: str, changes: list[tuple[list[str], Any]]) -> None:
    document: Any = read_document(recipe_paths()[recipe])
    for *parents, last in (path for path, _ in changes):
        here = document
        for parent in parents:
            inner = here.get(parent)
            here[parent] = here = inner if isinstance(inner, dict) else {}
        here[last] = changes[0][1]
    one_sentence(lambda: build_spec(document).model_dump_json())


def as_yaml_as_json_and_as_an_override(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("random.yaml", "random.json"):
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        one_sentence(lambda path=str(folder / name): read_spec(path).model_dump_json())  # type: ignore[misc]
    one_sentence(lambda: read_spec("digits-lamb", [text]))
    one_sentence(lambda: read_spec("digits-lamb", [f"dataset.arguments={text}"]))
    one_sentence(lambda: read_spec(text or "x"))


of_documents = given(DOCUMENTS)
of_changes = given(st.sampled_from(RECIPES), st.lists(st.tuples(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3), DOCUMENTS), max_size=3))
of_texts = given(st.lists(WORDS | st.text(max_size=5), max_size=25).map("".join))
test_any_document = QUICK(of_documents(any_document))
test_a_recipe_with_anything_put_anywhere = QUICK(of_changes(anything_put_anywhere))
test_any_text = settings(QUICK, max_examples=40)(of_texts(as_yaml_as_json_and_as_an_override))
# The same, for longer.
test_many_documents = pytest.mark.slow(settings(QUICK, max_examples=1000)(of_documents(any_document)))
test_many_changes_of_recipes = pytest.mark.slow(settings(QUICK, max_examples=1000)(of_changes(anything_put_anywhere)))
test_many_texts = pytest.mark.slow(settings(QUICK, max_examples=400)(of_texts(as_yaml_as_json_and_as_an_override)))


BOMBS = {
    "deep.yaml": "[" * 20_000,
    "deep.json": "[" * 200_000,
    "closed.json": '{"a": ' * 40_000 + "1" + "}" * 40_000,
    "laughs.yaml": "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)) + "dataset: {arguments: {x: *a59}}\n",
    "merges.yaml": "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60)),
    "circle.yaml": "dataset: &a {arguments: {x: *a}}\n",
    "keys.yaml": "".join(f"k{n}: 1\n" for n in range(25_000)),
    "digits.json": '{"seed": ' + "9" * 100_000 + "}",
    "digits.yaml": "seed: " + "9" * 100_000,
    "dates.yaml": "seed: 2001-99-99",
    "keyed.yaml": "dataset: {arguments: {? 2001-01-01 : x}}",
    "surrogate.json": '{"name": "\\ud800"}',
    "long.yaml": "# " + "x" * 300_000,
    "ends.yaml": "a: &a [*a]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(BOMBS[name])
    began_s = time.monotonic()
    with pytest.raises(LargebatchError):
        read_spec(str(tmp_path / name))
    assert time.monotonic() - began_s < 10.0
