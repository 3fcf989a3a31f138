"""What a command says last: how a run that was cut off goes on, what went wrong that nobody foresaw, and where the whole traceback lies."""

import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from largebatch.jobs.entry_points import described
from largebatch.jobs.errors import CodeError, FaultError, LargebatchError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.run_folder import CHECKPOINTS

TRACEBACK = "traceback.txt"


@contextmanager
def last_words(options: TrainOptions, begun: Sequence[Path], program: str) -> Iterator[None]:
    """Where a further Ctrl-C, a person's own code or what nobody foresaw ends the block, the error says how to go on, if there is a checkpoint.

    Args:
        begun: holds the run's folder, once it is there.
        program: what a person types before the options.
    Raises: KeyboardInterrupt with that sentence, if any; CodeError, with that sentence; LargebatchError as it is; FaultError for all else.
    """
    try:
        yield
    except KeyboardInterrupt:
        way_on = _way_on(options, begun, program)
        raise KeyboardInterrupt(*[f"The last checkpoint is whole. Go on with: {way_on}"] if way_on else []) from None
    except CodeError as error:
        way_on = _way_on(options, begun, program)
        way = f"The last checkpoint is whole. Mend the code, then go on with: {way_on}" if way_on else "Mend the code, then start again."
        error.hint = f"{error.hint} {way}".strip()
        raise
    except LargebatchError:
        raise
    except Exception as error:
        raise unforeseen(error, begun[0] if begun else None) from error


def _way_on(options: TrainOptions, begun: Sequence[Path], program: str) -> str | None:
    """The command that goes on with the run; None if it has no checkpoint yet."""
    if not begun or not list_checkpoints(begun[0] / CHECKPOINTS):
        return None
    return options.resuming(f"{options.store}/{begun[0].name}" if options.store else begun[0]).command(program)


def unforeseen(error: Exception, run_dir: Path | None) -> FaultError:
    """The error in one sentence. Args: run_dir: where the traceback is kept; None: the system's folder for temporary files."""
    path = _keep("".join(traceback.format_exception(error)), run_dir)
    where = f"The whole traceback: {path}." if path else "Its traceback could not be kept."
    return FaultError("", f"nobody foresaw this, a fault of largebatch's own or of your code: {described(error)}.", where)


def keep_traceback(error: CodeError, run_dir: Path) -> None:
    """Write the error's traceback to a file, and name the file in the error's own words."""
    path = _keep(error.trace, run_dir) if error.trace else None
    if path is not None:
        error.hint = f"The whole traceback: {path}."


def _keep(text: str, run_dir: Path | None) -> Path | None:
    """Where the text was written: into the run's folder, or else among temporary files; None if nowhere."""
    if run_dir is not None and run_dir.is_dir():
        with suppress(OSError):  # a full disk, perhaps that which this is about
            (run_dir / TRACEBACK).write_text(text)
            return run_dir / TRACEBACK
    try:
        with tempfile.NamedTemporaryFile("w", prefix="largebatch-", suffix=f"-{TRACEBACK}", delete=False) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)
