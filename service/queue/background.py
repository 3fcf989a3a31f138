"""A thread that works beside the service, from its start to its stop."""

import threading
from collections.abc import Callable

END_S = 30.0
"""How long the end of what is under way is waited for."""


class Background:
    """One such thread.

    Args: name: the thread's, for whoever looks at the process; work: returns soon after `over` is set.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.over = threading.Event()
        self._thread = threading.Thread(target=work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and wait for it; one that never began has ended."""
        self.over.set()
        if self._thread.is_alive():
            self._thread.join(END_S)
