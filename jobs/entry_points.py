"""Calls a person's own code by "package.module:function"."""

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largebatch.jobs.errors import CodeError, LargebatchError, SpecError
from largebatch.jobs.import_paths import PACKAGE, add_folder

ANYTHING = (Exception, SystemExit)
"""What a person's own code may raise: its sys.exit() would end the run as if all was done. KeyboardInterrupt is the person's own wish."""

NOTHING: Mapping[str, Any] = {}

MACHINES = ("CUDA", "cuDNN", "CUBLAS", "NCCL", "[/", "[enforce fail")
"""How messages begin of what a library says about an accelerator, the network or host memory."""


def call_entry_point(field: str, reference: str, arguments: Mapping[str, Any], offered: Mapping[str, Any] = NOTHING) -> Any:
    """Calls the function with these keyword arguments, and returns what it returns. The current folder is searched before installed packages.

    Args: offered: arguments that it gets if it names them.
    Raises: SpecError naming `field` if it cannot be imported, found or called with these arguments.
    """
    module_name, colon, function_name = reference.partition(":")
    if not colon or not module_name or not function_name:
        raise SpecError(field, f"{reference!r} is not of the form package.module:function.", "Example: my_model:build.")
    _refuse_path(field, module_name, function_name)
    add_folder(os.getcwd())
    try:
        top = module_name.partition(".")[0]
        importlib.import_module(top)
        _refuse_another(field, top)
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = "Run from the folder that holds it, send it along with a job, or install it."
        if module_name.endswith(".py"):
            hint = f"Name it without .py: {module_name.removesuffix('.py')}:{function_name}."
        raise SpecError(field, f"module {error.name!r} is not found.", hint) from error
    except LargebatchError:
        raise
    except ANYTHING as error:  # a person's module may raise anything while it is imported
        raise SpecError(field, f"{module_name} cannot be imported: {described(error)}.", "Mend it, then try again.") from error
    if not hasattr(module, function_name):
        hint = f"Check the name after the colon; the module is {getattr(module, '__file__', None) or 'built into Python'}."
        raise SpecError(field, f"{module_name} has no {function_name}.", hint)
    function = getattr(module, function_name)
    try:
        named = inspect.signature(function).parameters
        arguments = {**{name: value for name, value in offered.items() if name in named}, **arguments}
        inspect.signature(function).bind(**arguments)
    except ValueError:  # some built-in functions do not say what they take
        pass
    except TypeError as error:
        raise SpecError(field, f"{reference} does not take these arguments: {error}.", f"They were: {', '.join(arguments) or 'none'}.") from error
    try:
        return function(**arguments)
    except LargebatchError:
        raise
    except ANYTHING as error:
        raise SpecError(field, f"{reference} failed: {described(error)}.", "Mend it, then try again.") from error


def _refuse_path(field: str, module_name: str, function_name: str) -> None:
    """Raise SpecError where a file's path stands in place of a module's name, and say which name is meant."""
    if "/" not in module_name and os.sep not in module_name:
        return
    folder, path = Path.cwd(), Path(os.path.abspath(os.path.expanduser(module_name.removesuffix(".py"))))
    is_inside = path.is_relative_to(folder)
    name = ".".join(path.relative_to(folder).parts) if is_inside else path.name
    without = "without .py" if module_name.endswith(".py") else "without its folder"
    where = "Name it" if is_inside else f"Run from {path.parent}, and name it"
    problem = f"{module_name!r} is a path, and a module is named here: it is looked for in {folder} before installed packages."
    raise SpecError(field, problem, f"{where} {without}: {name}:{function_name}.")


def _refuse_another(field: str, name: str) -> None:
    """Raise SpecError where the current folder holds a module of this name, and another one is what Python imports by it."""
    folder = Path.cwd()
    own = [path for path in (folder / f"{name}.py", folder / name / "__init__.py") if path.is_file()]
    imported = getattr(sys.modules[name], "__file__", None)
    if own and (imported is None or Path(imported).resolve() not in {path.resolve() for path in own}):
        owner = "largebatch's own " if imported and Path(imported).parent == PACKAGE else ""
        what = f"{owner}{imported}" if imported else "a module of Python itself"
        raise SpecError(field, f"{name} is {what} to Python, not {own[0]}.", "Call your file by another name.")


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error that came out of a person's own code is the machine's: memory, an accelerator, the network between workers."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError", "AcceleratorError", "DistError"}) or str(error).startswith(MACHINES)


def failed(field: str, error: BaseException, doing: str) -> LargebatchError:
    """What a person's own code raised in the middle of a run, in words.

    Raises: the error itself where it is the machine's.
    """
    if isinstance(error, LargebatchError):
        return error
    if is_of_the_machine(error):
        raise error
    trace = "".join(traceback.format_exception(error))
    return CodeError(field, f"failed {doing}: {described(error)}.", trace=trace)


def raised_by(error: BaseException, *owners: object) -> object:
    """Of some objects the one whose method was running, innermost, when an error was raised; None if none's was."""
    running = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((one for one in reversed(running) if any(one is owner for owner in owners)), None)


def described(error: BaseException) -> str:
    """An error of a person's own code in words, with its file and line: without a traceback that is all they have."""
    message = str(error).rstrip(" .\n")  # it stands within a sentence
    words = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError):
        return words
    frames = traceback.extract_tb(error.__traceback__)
    # The last frame outside of Python, of installed packages and of this one is theirs, or nearest to theirs.
    others = ("<", sysconfig.get_path("stdlib"), str(PACKAGE))
    own = [frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith(others)]
    location = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{words}{location}"
