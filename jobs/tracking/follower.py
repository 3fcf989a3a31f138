"""The mirror's process: `python -m largebatch.jobs.tracking.follower`; on standard input MLflow's address, if any, then the run's folder.

It follows that run's journal until its standard input ends, then brings up runs that were left behind. Given a
folder of runs (one with a `parent.json`), it follows all that are in it or come.
"""

import json
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.run import run_folder
from largebatch.jobs.streams import drop_what_nobody_reads
from largebatch.jobs.tracking.folder_mirror import PARENT, FolderMirror
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.mlflow_mirror import Mirror, sync_run
from largebatch.jobs.tracking.mlflow_store import DeletedError, brief, get_ready

SOON_S = 1.0
"""Until the first look."""
POLL_S = 10.0
"""Between two looks at a journal, and two tries of a server that is away. A look costs a core 10 ms; every second would be 0.7 % of one."""
POLL_OF_FOLDER_S = 3.0
"""Between two looks at a folder of runs: runs of a second each would else be left for the end, when somebody waits."""
OLD_MIRROR_S = 60.0
"""How long the mirror of a process that was killed may still be sending."""


def _say(text: str) -> None:
    print(text, flush=True)


def _next_line() -> str | None:
    """What the training process says, a JSON string a line; None if it has ended."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def _input_ends_within(seconds: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and sys.stdin.read(1) == ""


class _Tries:
    """Tries to send, and what is said of them: that MLflow fails, for each reason once, and that it has everything again."""

    def __init__(self, folder: Path, journals_keep: str) -> None:
        self._folder, self._journals_keep = folder, journals_keep
        self._reason: str | None = None
        self._needs_a_person = False

    def attempt(self, send: Callable[[], None], uri: Callable[[], str]) -> None:
        """Try once: the mirror outlives anything that MLflow raises."""
        try:
            send()
        except Exception as error:
            self._failed(uri(), error)
            return
        if self._reason is not None:
            _say(f"MLflow at {uri()} answers again and has everything so far.")
        self._reason = None

    def _failed(self, uri: str, error: Exception) -> None:
        self._needs_a_person = isinstance(error, DeletedError)
        reason = str(error) if self._needs_a_person else f"MLflow at {uri} does not answer"
        if reason != self._reason:
            sentence = reason if self._needs_a_person else f"{reason} ({brief(error)})."
            _say(f"{sentence} Training goes on; the {self._journals_keep} everything.")
        self._reason = reason

    def end(self, other_help: str = "") -> None:
        """Say that nothing more is tried from here. Args: other_help: what else brings up a store that was away."""
        if self._reason is not None:
            once, help_ = ("once that is mended, ", "") if self._needs_a_person else ("", other_help)
            _say(f"MLflow is behind: {once}`largebatch sync {self._folder}` brings it up to date{help_}.")


def follow(run_dir: Path, is_over_within: Callable[[float], bool] = _input_ends_within) -> None:
    """Mirror a run while it trains; ends, with a last try, when standard input does.

    Args: is_over_within: waits so many seconds, or less if the training process ends; returns whether it has.
    """
    mirror: Mirror | None = None
    tries = _Tries(run_dir, "journal keeps")
    is_over = False

    def send() -> None:
        nonlocal mirror
        mirror = mirror or Mirror(run_dir)
        mirror.catch_up()
        if is_over:
            mirror.mark_killed()
        else:
            mirror.watch_machine()

    while not is_over:
        is_over = is_over_within(POLL_S if mirror else SOON_S)
        if (run_dir / run_folder.ENVIRONMENT).is_file():
            tries.attempt(send, lambda: mirror.uri if mirror else "its address")
    tries.end(", and so does the next run")


def follow_all(folder: Path) -> None:
    """Mirror the runs of a folder as they come; ends, with a last try, when standard input does."""
    mirror = FolderMirror(folder)
    tries = _Tries(folder, "journals keep")
    is_over = False
    wait_s = SOON_S
    while not is_over:
        is_over = _input_ends_within(wait_s)
        wait_s = POLL_OF_FOLDER_S
        tries.attempt(mirror.finish if is_over else mirror.catch_up, lambda: mirror.uri)
    tries.end()


def catch_up_others(run_dir: Path) -> None:
    """Bring up runs beside this one whose server was away when they ended, or were killed."""
    for journal in sorted(run_dir.parent.glob(f"*/{run_folder.JOURNAL}")):
        other, before = journal.parent, MirrorState.read(journal.parent)
        if other == run_dir or (before.run_id and before.bytes_read >= journal.stat().st_size):
            continue
        # Whatever MLflow or the folder raises: another run will try again. Held, the folder is of a run that nobody trains now.
        with suppress(Exception), run_folder.exclusive(other, "train"):
            if not run_folder.begun_spec(other).tracking.enabled:
                continue
            after = sync_run(other)
            Mirror(other).mark_killed()
            if after.bytes_read > before.bytes_read:  # the last line may have been cut short by a kill
                _say(f"MLflow now has run {other.name} too.")


def main() -> None:
    """Get ready, follow the run that is named, then help those left behind."""
    collect_seldom()
    get_ready(_next_line() or "")
    name = _next_line()
    if name is None:
        return
    run_dir = Path(name)
    with run_folder.exclusive(run_dir, "mirror", patience_s=OLD_MIRROR_S):
        if (run_dir / PARENT).is_file():
            follow_all(run_dir)
            return
        follow(run_dir)
    if MirrorState.read(run_dir).is_complete:
        catch_up_others(run_dir)


if __name__ == "__main__":
    drop_what_nobody_reads()  # the process it speaks to may be gone, and the run not yet in MLflow
    main()
