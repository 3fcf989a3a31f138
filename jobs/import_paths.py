"""Settles where modules are found: Python's own and ours before whatever lies in the folder that a person works in.

A `random.py` or `queue.py` beside a person's model must neither end one of our processes nor be imported by a library.
"""

import importlib.metadata
import json
import os
import sys
import sysconfig
from pathlib import Path

import largebatch
from largebatch.jobs.errors import InputError

PACKAGE = Path(largebatch.__file__).absolute().parent
PACKAGES = PACKAGE.parent
"""The folder that holds the package `largebatch`: it need not be the current one."""
INSTALLED = {"site-packages", "dist-packages"}
"""What folders of installed packages are called."""
ESSENTIAL = {"largebatch", "torch", "numpy", "pydantic", "yaml", "ray", "mlflow"}
"""What our processes on Ray import beside Python's own modules."""


def python(*arguments: str) -> list[str]:
    """The command of a Python process that looks for modules neither in the current folder nor beside its script."""
    return [sys.executable, "-P", *arguments]


def environment() -> dict[str, str]:
    """The environment of a process that finds our packages wherever it is started.

    An empty part of PYTHONPATH would be the current folder again, so there is none.
    """
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(PACKAGES) not in paths and not _is_installed():
        paths.append(str(PACKAGES))  # behind what a person named: this process, too, searched that first
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**others, "PYTHONPATH": os.pathsep.join(paths)} if paths else others


def _is_installed() -> bool:
    """Whether this interpreter finds this very package without PYTHONPATH: installed whole, or as an editable checkout (PEP 610)."""
    installed = Path(sysconfig.get_path("purelib"))
    if installed == PACKAGES:
        return True
    distributions = importlib.metadata.distributions(name="largebatch", path=[str(installed)])
    origins = (distribution.read_text("direct_url.json") for distribution in distributions)
    return any(origin and json.loads(origin)["url"] == PACKAGES.as_uri() for origin in origins)


def add_folder(folder: str) -> None:
    """Let a person's modules be found in a folder: behind Python's own, before installed packages, as in a script that they would run there."""
    if folder not in sys.path:
        holds_installed = [Path(path).name in INSTALLED for path in sys.path]
        sys.path.insert(holds_installed.index(True) if True in holds_installed else len(sys.path), folder)


def hides_ours(module: str) -> bool:
    """Whether a file or folder of this name would be taken for a module of Python's or ours where a folder is searched before all else."""
    return module in sys.stdlib_module_names or module in ESSENTIAL


def refuse_hiding(folder: Path) -> None:
    """Raise InputError for a file that Ray's processes, which search this folder before all else, would take for a module of Python's or ours."""
    for path in sorted(folder.iterdir()):
        if hides_ours(path.stem) and path.resolve() != PACKAGE.resolve() and (path.suffix == ".py" or (path / "__init__.py").is_file()):
            problem = f"Ray's processes search the current folder first, and would take it for the module {path.stem!r} that they need."
            raise InputError(str(path), problem, "Call it by another name, or run from another folder.")
