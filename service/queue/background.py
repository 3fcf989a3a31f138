"""A thread that works beside the service, from its start to its stop."""

import threading
from collections.abc import Callable

import structlog

from largebatch.jobs.errors import FaultError

END_S = 30.0
"""How long the end of what is under way is waited for."""


class Background:
    """A thread that does one thing again and again, also after it failed.

    Args: name: the thread's, for whoever looks at the process and its log; look: one round; every_s: the pause between two.
    """

    def __init__(self, name: str, look: Callable[[], None], every_s: float) -> None:
        self._name, self._look, self._every_s = name, look, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.problem: str | None = None
        """Why the last round broke off."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and wait for it; one that never began has ended."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _run(self) -> None:
        log = structlog.get_logger("background")
        while not self._over.is_set():
            try:
                self._look()
                self.problem = None
            except FaultError as error:  # what it needs is away: the next round may find it
                if self.problem is None:
                    log.warning("round broke off", thread=self._name, reason=str(error))
                self.problem = str(error)
            except Exception as error:
                self.problem = f"{type(error).__name__}: {error}"
                log.exception("round broke off", thread=self._name)
            self._over.wait(self._every_s)
