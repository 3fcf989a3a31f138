"""The benchmarks can be started: nobody notices otherwise what a change took from under them."""

from pathlib import Path

from forked import Forked

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
IMPORT_ALL = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path(".").glob("*.py")):
    importlib.import_module(path.stem)
    print(path.stem)
"""


def test_each_of_them_imports_what_it_needs() -> None:
    done = Forked("-c", IMPORT_ALL, folder=FOLDER)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err[-2000:]
    assert out.split() == sorted(path.stem for path in FOLDER.glob("*.py"))
