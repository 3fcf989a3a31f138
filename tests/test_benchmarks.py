"""The benchmarks can be started: nobody notices otherwise what a change took from under them."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
IMPORT_ALL = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path(".").glob("*.py")):
    importlib.import_module(path.stem)
    print(path.stem)
"""


def test_each_of_them_imports_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == sorted(path.stem for path in FOLDER.glob("*.py"))
