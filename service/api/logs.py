"""The service's log on standard error: one line for each request and event, and one a minute for what anybody can repeat."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from largebatch.jobs.streams import printable

EVERY_S = 60.0
MOST_KINDS = 1000
OTHERS = "others"
"""The kind of all that come when so many are remembered."""


class Seldom:
    """Says of a thing whether it may be logged now: once a minute; what was left out meanwhile is counted."""

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._said: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def left_out(self, kind: str) -> int | None:
        """How many of this kind were left out since the last that was logged; None: leave this one out, too."""
        now = self._clock()
        with self._lock:
            if kind not in self._said and len(self._said) >= MOST_KINDS:
                kind = OTHERS
            said_at_s, num_since = self._said.get(kind, (-self._every_s, 0))
            if now < said_at_s + self._every_s:
                self._said[kind] = (said_at_s, num_since + 1)
                return None
            self._said[kind] = (now, 0)
            return num_since


class SeldomRepeated(logging.Filter):
    """Lets a library's message through once a minute, whatever it is about each time."""

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seldom = Seldom(every_s, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        num = self._seldom.left_out(f"{record.name} {str(record.msg)[:80]}")
        if num:
            record.msg = f"{record.msg} ({num} more since the last such line)"
        return num is not None


def written_out(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The fields of a line with what cannot be printed written out: a path that somebody asks for commands no terminal that shows the log."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in line.items()}


def log_to_stderr(as_json: bool) -> None:
    """Send what the service and its libraries log to standard error."""
    as_text: list[Any] = [written_out, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    writers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()] if as_json else as_text
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper("iso", utc=True), *writers],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(SeldomRepeated())
