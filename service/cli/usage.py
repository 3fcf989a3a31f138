"""What a command line that cannot be understood is answered with: one sentence, as for every other mistake, in place of the library's own box."""

import re
from typing import Any

from largebatch.jobs.errors import InputError

PLAIN_WORDS = {
    r"is not a valid int(eger)?( range)?": "is not a whole number",
    r"is not a valid float( range)?": "is not a number",
    r"is not in the range x>=(\S+?)\.?$": r"is not at least \1.",
    r"is not in the range x<=(\S+?)\.?$": r"is not at most \1.",
    r"is not in the range (\S+)<=x<=(\S+?)\.?$": r"is not between \1 and \2.",
}
"""What the library says of a value, as patterns, and plain English for it."""


def is_of_usage(error: Exception) -> bool:
    """Whether the error is of the library that reads command lines, and no way to show help. The library exports no name of these."""
    return hasattr(error, "format_message") and type(error).__name__ != "NoArgsIsHelpError"


def refusal(error: Any) -> InputError:
    """The same error in the house's words: the option or the argument, what is wrong with it, and what to do."""
    context, parameter, message = getattr(error, "ctx", None), getattr(error, "param", None), str(getattr(error, "message", error))
    called = context.command_path if context is not None else ""
    hint = f"`{called} --help` says what it takes." if called else ""
    unknown = getattr(error, "option_name", None)
    if parameter is not None:
        is_missing = type(error).__name__ == "MissingParameter"
        return InputError(_named(parameter), "is missing." if is_missing else _in_plain_words(message), hint)
    if unknown is not None and hasattr(error, "possibilities"):
        proposed = _possibilities(error)
        return InputError(unknown, f"is no option of `{called}`.", f"Did you mean {' or '.join(proposed)}?" if proposed else hint)
    if unknown is not None:
        return InputError(unknown, message.replace(f"Option '{unknown}' ", ""), hint)
    return InputError("", message if message.endswith((".", "?")) else f"{message}.", "" if message.endswith("?") else hint)


def _named(parameter: Any) -> str:
    """The option as it is typed, or the argument as help shows it."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name).upper()


def _in_plain_words(message: str) -> str:
    for theirs, ours in PLAIN_WORDS.items():
        message = re.sub(theirs, ours, message)
    return message


def _possibilities(error: Any) -> list[str]:
    """The options that are meant, perhaps: those alike, and `--set FIELD=VALUE`, where a recipe's field was given as an option of its own."""
    alike = sorted({*(error.possibilities or [])} - {"--help"})
    parameters = getattr(getattr(getattr(error, "ctx", None), "command", None), "params", ())
    if all("--set" not in option.opts for option in parameters):
        return alike
    from largebatch.jobs.spec.mistakes import field_called  # with all of a recipe's fields, too slow for help

    field = field_called(error.option_name.lstrip("-").replace("-", "_"))
    if not field:
        return alike
    return [*[option for option in alike if option != "--set"], f"--set {field}" if "=" in field else f"--set {field}=VALUE"]
