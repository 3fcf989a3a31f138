"""Calling a person's own code by "package.module:function"."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from jobs.errors import SpecError


def call_entry_point(field: str, reference: str, arguments: Mapping[str, Any]) -> Any:
    """What the function returns for these keyword arguments. The current folder is searched first.

    Raises: SpecError naming `field` if it cannot be imported, found or called with these arguments.
    """
    module_name, colon, function_name = reference.partition(":")
    if not colon or not module_name or not function_name:
        raise SpecError(field, f"{reference!r} is not of the form package.module:function.", "Example: my_model:build.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        raise SpecError(
            field, f"module {error.name!r} is not found.", f"Run from the folder that holds it, or install it ({module_name})."
        ) from error
    except AttributeError as error:
        raise SpecError(field, f"{module_name} has no {function_name}.") from error
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise SpecError(field, f"{reference} does not take these arguments: {error}.", f"They were: {', '.join(arguments) or 'none'}.") from error
    return function(**arguments)
