"""A person's own code by "package.module:function", from the current folder."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from largebatch.jobs.entry_points import call_entry_point, described
from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.models.table import build_model
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import ModelSpec

OWN_CODE = """
import json

import torch
from torch import nn

from largebatch.jobs.errors import DataError

CONSTANT = 5

def build(num_classes, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))

def number(num_classes):
    return 3

def nothing_to_train(num_classes):
    return nn.Flatten()

def fails(num_classes):
    raise KeyError("two\\nlines")

def parses(num_classes):
    return json.loads("{")

def refuses(num_classes):
    raise DataError("my field", "my problem.")
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_code", "own_package", "own_package.models", "broken_code", "wishful_code"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("own_code.py").write_text(OWN_CODE)


def build(reference: str, **arguments: object) -> nn.Module:
    spec = ModelSpec.model_validate({"entry_point": reference, "arguments": arguments})
    return build_model(spec, Dataset("any", [], [], 10, (1, 8, 8)), seed=0)


def test_a_model_from_the_current_folder() -> None:
    logits = build("own_code:build", width=6)(torch.zeros(3, 1, 8, 8))
    assert logits.shape == (3, 10)


def test_a_module_in_a_package() -> None:
    Path("own_package").mkdir()
    Path("own_package", "models.py").write_text(OWN_CODE)
    assert isinstance(build("own_package.models:build"), nn.Module)


def test_the_same_weights_for_the_same_seed() -> None:
    first, second = build("own_code:build"), build("own_code:build")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_current_folder_is_searched_once() -> None:
    before = len(sys.path)
    call_entry_point("f", "own_code:build", {"num_classes": 2})
    call_entry_point("f", "own_code:build", {"num_classes": 2})
    assert len(sys.path) == before + 1


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("own_code", "is not of the form package.module:function"),
        ("own_code:", "is not of the form package.module:function"),
        (":build", "is not of the form package.module:function"),
        ("no_such_code:build", "module 'no_such_code' is not found"),
        ("own_code.deeper:build", "module 'own_code.deeper' is not found"),
        ("..own_code:build", "cannot be imported"),
        ("own_code:missing", "own_code has no missing"),
        ("own_code:CONSTANT", "does not take these arguments"),
        ("own_code:number", "returned int; it must return an nn.Module"),
        ("own_code:nothing_to_train", "has no parameter to train"),
        ("own_code:fails", "own_code:fails failed: KeyError: 'two\\nlines'"),
        ("builtins:dict", "returned dict"),  # it does not say what it takes
    ],
)
def test_what_cannot_be_used_is_named(reference: str, problem: str) -> None:
    with pytest.raises(SpecError) as refused:
        build(reference)
    assert problem in refused.value.problem
    assert refused.value.field.startswith("model")


@pytest.mark.parametrize(("reference", "hint"), [
    ("own_code.py:build", "own_code:build"), ("deeper/code.py:build", "deeper.code:build"), ("./own_code.py:build", "own_code:build"),
    ("././deeper/../own_code.py:build", "own_code:build"),
])  # fmt: skip
def test_a_file_is_named_without_its_ending(reference: str, hint: str) -> None:
    with pytest.raises(SpecError) as refused:
        build(reference)
    assert refused.value.hint == f"Name it without .py: {hint}."


def test_a_path_says_which_module_is_meant_and_where_it_is_looked_for() -> None:
    for reference, hint in (
        (f"{Path.cwd()}/own_code.py:build", "Name it without .py: own_code:build."),
        ("deeper/code:build", "Name it without its folder: deeper.code:build."),
        ("../own_code.py:build", f"Run from {Path.cwd().parent}, and name it without .py: own_code:build."),
    ):
        with pytest.raises(SpecError) as refused:
            build(reference)
        assert (refused.value.field, refused.value.hint) == ("model.entry_point", hint)
        assert f"it is looked for in {Path.cwd()} before installed packages" in refused.value.problem


def test_a_failure_names_the_line_that_failed() -> None:
    line = 1 + OWN_CODE.splitlines().index('    raise KeyError("two\\nlines")')
    with pytest.raises(SpecError, match=rf"own_code\.py, line {line}\)"):
        build("own_code:fails")


def test_a_failure_inside_a_library_names_the_callers_line() -> None:
    line = 1 + next(i for i, text in enumerate(OWN_CODE.splitlines()) if "nn.Linear(64, width)" in text)
    with pytest.raises(SpecError, match=rf"own_code\.py, line {line}\)"):
        build("own_code:build", width="wide")


def test_own_errors_for_people_pass_unchanged() -> None:
    with pytest.raises(DataError, match="my field: my problem"):
        build("own_code:refuses")


def test_wrong_arguments_are_listed() -> None:
    with pytest.raises(SpecError, match=r"unexpected keyword argument 'widht'\. They were: num_classes, widht"):
        build("own_code:build", widht=3)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("broken_code", "def f(:\n", r"SyntaxError: .*broken_code\.py, line 1"),
        ("wishful_code", "\nfrom torch import no_such_thing\n", r"cannot import name 'no_such_thing' .*wishful_code\.py, line 2"),
        ("wishful_code", "import no_such_library\n", r"module 'no_such_library' is not found"),
    ],
)
def test_a_module_that_cannot_be_imported(name: str, text: str, problem: str) -> None:
    Path(f"{name}.py").write_text(text)
    with pytest.raises(SpecError, match=problem):
        build(f"{name}:f")


@pytest.mark.parametrize(("name", "owner"), [("largebatch", "largebatch's own /"), ("random", "/"), ("torch", "/")])
def test_a_file_named_like_a_module_that_is_there_already(name: str, owner: str) -> None:
    """Whether or not that module has such a function or part: it is not the one that is meant."""
    Path(f"{name}.py").write_text(OWN_CODE)
    for reference in (f"{name}:build", f"{name}:choice", f"{name}.deeper:build"):
        with pytest.raises(SpecError) as refused:
            build(reference)
        assert refused.value.problem.startswith(f"{name} is {owner}")
        assert refused.value.problem.endswith(f" to Python, not {Path.cwd() / name}.py.")


@pytest.mark.parametrize("name", ["jobs", "service", "tuning", "models", "data"])
def test_a_persons_own_package_is_found_whatever_folders_of_this_checkout_are_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(__file__).resolve().parents[2]  # pytest puts it on the path; an installed largebatch does not
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != checkout])
    Path(name).mkdir()
    Path(name, "__init__.py").touch()
    Path(name, "nets.py").write_text(OWN_CODE)
    assert build(f"{name}.nets:build") is not None
    for module in (name, f"{name}.nets"):
        sys.modules.pop(module, None)


def test_a_folder_of_data_does_not_hide_a_module() -> None:
    Path("json").mkdir()
    with pytest.raises(SpecError, match="json has no build"):
        build("json:build")


def test_a_missing_function_says_which_file_was_looked_at() -> None:
    with pytest.raises(SpecError, match=r"the module is .*own_code\.py"):
        build("own_code:missing")


def test_a_failure_inside_python_names_the_callers_line() -> None:
    line = 1 + next(i for i, text in enumerate(OWN_CODE.splitlines()) if "json.loads" in text)
    with pytest.raises(SpecError, match=rf"JSONDecodeError: .*own_code\.py, line {line}\)"):
        build("own_code:parses")


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("Keys are missing. "), "ValueError: Keys are missing"), (AssertionError(), "AssertionError"), (SystemExit(2), "SystemExit: 2")],
)
def test_an_error_of_theirs_stands_within_a_sentence(error: BaseException, words: str) -> None:
    assert described(error) == words
