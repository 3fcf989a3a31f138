"""Reads text files block by block as documents, and tells after each block where it could begin again.

Where a text is cut decides its tokens, so a reading that begins again cuts where the first would have: a place keeps how far the file was
read, and where the text begins that was read and not handed on yet.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import DataError

CHECKED_AT_ONCE = 2**24
"""Bytes."""


class Place(NamedTuple):
    """How far a file was read, in bytes from its beginning."""

    block: int = 0
    """Where the next block begins."""
    piece: int = 0
    """Where the text begins that is no piece yet: pieces end with a line, where there is one."""
    document: int = 0
    """Where the text begins that is no document yet, of files that are cut at a separator; else where the next piece does."""
    line: int = 0
    """Of .jsonl: lines that were handed on."""


class Block(NamedTuple):
    """What one block of a file added."""

    texts: list[tuple[str, bool]]
    """(text, whether a document ends with it)."""
    place: Place
    """After it."""


def is_json_lines(path: Path) -> bool:
    """Whether each line of a file is a document, as JSON."""
    return path.suffix.lower() == ".jsonl"


def new_digest() -> hashlib.blake2b:
    """A digest of nothing yet."""
    return hashlib.blake2b(digest_size=16)


def digest_of(path: Path, size: int | None = None, on_progress: Callable[[int], None] = lambda size: None) -> hashlib.blake2b:
    """The digest of a file's first bytes, or of all. Args: on_progress: told how many were read. Raises: OSError."""
    digest, done = new_digest(), 0
    with path.open("rb") as file:
        while part := file.read(CHECKED_AT_ONCE if size is None else min(CHECKED_AT_ONCE, size - done)):
            digest.update(part)
            done += len(part)
            on_progress(done)
    return digest


def read_blocks(path: Path, separator: str | None, size: int, begin: Place, digest: hashlib.blake2b) -> Iterator[Block]:
    """The blocks of a file from a place on; the last ends its last document.

    Args:
        separator: the text that ends a document within the file; None: the file is one document, but for .jsonl, where each line is one.
        size: bytes of a block.
        begin: where to begin.
        digest: of what lies before `begin`; what is read is added to it.
    Raises: DataError for what is no UTF-8 text, or no JSON object with a text.
    """
    is_json = is_json_lines(path)
    separator = "\n" if is_json else separator
    decoder, line = codecs.getincrementaldecoder("utf-8")(), begin.line
    with path.open("rb") as file:
        file.seek(begin.document)
        document = file.read(begin.piece - begin.document).decode()
        piece = decoder.decode(file.read(begin.block - begin.piece))
        is_last = False
        while not is_last:
            read = file.read(size)
            digest.update(read)
            is_last = not read
            try:
                text = piece + decoder.decode(read, final=is_last)
            except UnicodeDecodeError as error:
                problem = f"{path} is not UTF-8 text: byte {file.tell() - len(error.object) + error.start} cannot be read."
                raise DataError("FILES", problem, "Convert it, for instance with iconv.") from error
            cut = len(text) if is_last else text.rfind("\n") + 1 or len(text)  # no word is cut where there is a line's end
            text, piece = text[:cut], text[cut:]
            if separator is None:
                texts = [(text, is_last)]
            else:
                *whole, document = (document + text).split(separator)
                whole += [document] if is_last else []
                numbered = enumerate(whole, line + 1)
                texts = [(_text_of(one, path, number) if is_json else one, True) for number, one in numbered if one.strip() or not is_json]
                line += len(whole)
            piece_at = file.tell() - len(decoder.getstate()[0]) - len(piece.encode())
            yield Block(texts, Place(file.tell(), piece_at, piece_at - len(document.encode()), line))


def _text_of(line: str, path: Path, number: int) -> str:
    """The text of a line of JSON. Raises: DataError."""
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("FILES", f"line {number} of {path} is no JSON object with a text.", 'Each line is {"text": "..."}.') from error
    if not isinstance(text, str):
        raise DataError("FILES", f'the "text" in line {number} of {path} is a {type(text).__name__}.', 'Each line is {"text": "..."}.')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f'the "text" in line {number} of {path} holds half of a surrogate pair, \\u{ord(text[error.start]):04x}, which is no character.'
        raise DataError("FILES", problem, "Mend or leave out that line.") from error
    return text
