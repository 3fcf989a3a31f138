"""What a command says last when something went wrong that nobody foresaw, and where the whole traceback lies."""

import tempfile
import traceback
from pathlib import Path

from largebatch.jobs.entry_points import described
from largebatch.jobs.errors import CodeError, FaultError

TRACEBACK = "traceback.txt"


def unforeseen(error: Exception, run_dir: Path | None) -> FaultError:
    """The error in one sentence. Args: run_dir: where the traceback is kept; None: the system's folder for temporary files."""
    path = _keep("".join(traceback.format_exception(error)), run_dir)
    where = f"The whole traceback: {path}." if path else "Its traceback could not be kept."
    return FaultError("", f"nobody foresaw this, a fault of largebatch's own or of your code: {described(error)}.", where)


def keep_traceback(error: CodeError, run_dir: Path) -> None:
    """Write it down, and say in the error's own words where."""
    path = _keep(error.trace, run_dir) if error.trace else None
    if path is not None:
        error.hint = f"The whole traceback: {path}."


def with_way_on(error: CodeError, command: str | None) -> CodeError:
    """The same error, whose words say how to go on with the run. Args: command: None if nothing was saved."""
    way = f"The last checkpoint is whole. Mend the code, then go on with: {command}" if command else "Mend the code, then start again."
    error.hint = f"{error.hint} {way}".strip()
    return error


def _keep(text: str, run_dir: Path | None) -> Path | None:
    if run_dir is not None and run_dir.is_dir():
        try:
            (run_dir / TRACEBACK).write_text(text)
            return run_dir / TRACEBACK
        except OSError:
            pass  # a full disk, perhaps that which this is about
    try:
        with tempfile.NamedTemporaryFile("w", prefix="largebatch-", suffix=f"-{TRACEBACK}", delete=False) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)
