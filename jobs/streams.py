"""Guards a command's standard streams: drops output that nobody reads any more, and can keep standard output for the answer alone."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

NOBODY_READS = {errno.EPIPE, errno.EIO}
"""What writing to a pipe whose reader has ended gives, and to a terminal that is closed."""
STDOUT, STDERR = 1, 2


class _Dropping(io.FileIO):
    """Writes bytes to a file descriptor, and leads it nowhere once nobody reads it: what a library or a further process writes is dropped too."""

    def write(self, content: Any, /) -> int:
        """See `io.FileIO`. Raises: OSError for another reason than a reader that is gone; of standard error none: a log costs no run."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno in NOBODY_READS:
                null_device = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null_device, self.fileno())
                os.close(null_device)
            elif self.fileno() != STDERR:
                raise
            return memoryview(content).nbytes


def drop_what_nobody_reads() -> None:
    """From now on a reader that ends (`2>&1 | head`) or a terminal that closes ends no command: its output is dropped, its work goes on."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:  # closed from the start: or the next file that is opened, a journal, would be taken for it
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = sys.__stdout__ = _text(STDOUT, sys.stdout)  # type: ignore[misc]
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = _text(STDERR, sys.stderr, is_by_line=True)  # type: ignore[misc]


def _text(descriptor: int, stream: TextIO | None, is_by_line: bool = False) -> io.TextIOWrapper:
    """A text stream like this one that drops what nobody reads.

    It is UTF-8 where this one is ASCII: under a locale that knows ASCII alone the first other letter would end the command.

    Args: is_by_line: whether each line is written at once, as it is to a terminal.
    """
    if stream is not None:
        stream.flush()
    raw = _Dropping(descriptor, "w", closefd=False)
    encoding, errors = (stream.encoding, stream.errors) if stream is not None else ("utf-8", "backslashreplace")
    if codecs.lookup(encoding).name == "ascii":
        encoding = "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=is_by_line or raw.isatty())


_kept: ContextVar[TextIO | None] = ContextVar("_kept", default=None)


@contextmanager
def standard_output_kept() -> Iterator[None]:
    """Standard output for `print_answer` alone; whatever else is printed goes to standard error.

    That is what a person's model prints, or its data's reading processes, or a library written in C. It stays so until the
    process ends, for C libraries print what they held back then; a stream that is not the process's own is given back.
    """
    before = sys.stdout
    if before is sys.__stdout__:
        _kept.set(_text(os.dup(STDOUT), before))
        os.dup2(STDERR, STDOUT)
        sys.stdout = sys.__stdout__ = _text(STDOUT, before, is_by_line=True)  # type: ignore[misc]
        yield
        return
    token = _kept.set(before)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = before
        _kept.reset(token)


def print_answer(text: str) -> None:
    """Print the command's answer on standard output, also where that is kept."""
    print(text, file=_kept.get(), flush=True)


def printable(text: str, besides: str = "") -> str:
    """Somebody else's text for a terminal, which it shall not command: what cannot be printed is written out, but for the letters `besides`."""
    return "".join(letter if letter.isprintable() or letter in besides else repr(letter)[1:-1] for letter in text)
