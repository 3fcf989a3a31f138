"""Turns text files into a folder of tokens, block by block; what was interrupted goes on where it stopped.

All is written in a folder beside the one asked for, which appears when everything is there.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from largebatch.jobs.data.sources.text_files import Place, digest_of, is_json_lines, new_digest, read_blocks
from largebatch.jobs.data.sources.tokens import DOCUMENTS, FACTS, TEXT_BYTES, TEXT_BYTES_TYPE, TOKENS, Array, TokenFacts
from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.whole_files import storage_errors, write_text

PIECE = 2**20
"""Bytes of a file that are read and turned into tokens at a time; what is turned ends at the end of a line where there is one."""
PROGRESS = "progress.json"
SAVE_EVERY_S = 2.0
SPECIAL = ("<|endoftext|>", "</s>", "[SEP]", "<eos>")
"""Tokens that end a document, by their usual names."""
MASKS = ("[MASK]", "<mask>")
MOST_TEXT_BYTES = int(np.iinfo(TEXT_BYTES_TYPE).max)
"""Of one token; what is more is told of the next: a run of spaces that a tokenizer drops may have any length."""


class Encoded(NamedTuple):
    """The tokens of a text."""

    tokens: Array
    """(n,)."""
    ends: Array | None = None
    """(n,) how many bytes of the text lie before each token's end; None: a token is a byte."""


class Tokenizer(NamedTuple):
    """Text to tokens."""

    name: str
    vocabulary_size: int
    end_of_document: int
    mask_token: int | None
    encode: Callable[[str], Encoded]
    digest: str = ""
    """Of the file that it was read from."""


def byte_tokenizer() -> Tokenizer:
    """UTF-8 bytes; 256 ends a document, 257 masks."""
    return Tokenizer("bytes", 258, 256, 257, lambda text: Encoded(np.frombuffer(text.encode(), dtype=np.uint8)))


def file_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json of the `tokenizers` library. Raises: InputError where the library or the file is not there."""
    try:
        from tokenizers import Tokenizer as FileTokenizer
    except ImportError:
        raise InputError("--tokenizer", "needs the tokenizers library, which is not installed.", "pip install 'largebatch[text]'") from None
    try:
        digest, loaded = digest_of(path).hexdigest(), FileTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise InputError("--tokenizer", f"{path} cannot be read: {error}.", "Give bytes, or a tokenizer.json.") from error
    loaded.no_truncation()  # some files say 512 tokens, for a model's inputs: the rest of each text would be lost
    loaded.no_padding()
    size = 1 + max(loaded.get_vocab(with_added_tokens=True).values(), default=-1)  # numbers may be left out: their count would be too few
    end, mask = (next(filter(lambda token: token is not None, map(loaded.token_to_id, names)), None) for names in (SPECIAL, MASKS))

    def encode(text: str) -> Encoded:
        encoding = loaded.encode(text, add_special_tokens=False)
        ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 1]
        return Encoded(np.array(encoding.ids, dtype=np.uint32), _bytes_before(text)[ends])

    return Tokenizer(str(path), size if end is not None else size + 1, size if end is None else end, mask, encode, digest)


def _bytes_before(text: str) -> Array:
    """(characters + 1,) how many UTF-8 bytes lie before each character, and before the end."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


class _Progress(BaseModel):
    """How far the work came: what an earlier call left, and what of it counts."""

    model_config = ConfigDict(extra="forbid")

    task: dict[str, Any]
    """What must be the same for the work to go on."""
    num_files: int = 0
    """Files that are done."""
    digests: list[str] = []
    """Of each of them; what stands behind their number does not count."""
    place: Place = Place()
    """In the next."""
    digest: str = ""
    """Of what was read of it."""
    num_tokens: int = 0
    begin: int = 0
    """The first token of the document that is open."""
    num_documents: int = 0
    largest_token: int = 0
    text_bytes: int = 0
    """Bytes of text since the last token: no token of their own stands for them."""


class _Writer:
    """Writes tokens, and keeps what was whole at the end of the last block.

    Args: partial: the folder. done: how far the work came; the files are cut there. save_every_s: see `make_tokens`.
    """

    def __init__(self, partial: Path, tokenizer: Tokenizer, dtype: str, done: _Progress, files: ExitStack, save_every_s: float) -> None:
        self.done, self._whole = done, done.model_copy()
        self._partial, self._tokenizer, self._dtype = partial, tokenizer, np.dtype(dtype).newbyteorder("<")
        sizes = {TOKENS: self._dtype.itemsize * done.num_tokens, DOCUMENTS: 8 * done.num_documents}
        if tokenizer.name != byte_tokenizer().name:
            sizes[TEXT_BYTES] = np.dtype(TEXT_BYTES_TYPE).itemsize * done.num_tokens
        self._files = {name: files.enter_context((partial / name).open("ab")) for name in sizes}
        for name, size in sizes.items():
            self._files[name].truncate(size)
        self._saved_s, self._save_every_s = time.monotonic(), save_every_s

    @property
    def counts_text_bytes(self) -> bool:
        """Whether the bytes that each token stands for are written down; where a token is a byte they need not be."""
        return TEXT_BYTES in self._files

    def add(self, text: str) -> None:
        """Add a text to the document that is open."""
        encoded = self._tokenizer.encode(text)
        num_bytes = None if encoded.ends is None else self._bytes_of(encoded.ends, len(text.encode("utf-8", "surrogatepass")))
        self._write(encoded.tokens, num_bytes)

    def _bytes_of(self, ends: Array, total: int) -> Array:
        """(n,) the bytes that each token stands for: from the end of the one before to its own, so that every byte counts once."""
        before = self.done.text_bytes
        if not len(ends):
            self.done.text_bytes += total
            return ends
        reached = np.maximum.accumulate(ends)  # two tokens of one character end together: the first has its bytes
        wanted = np.diff(reached, prepend=-before)
        counted = np.minimum(wanted, MOST_TEXT_BYTES)
        self.done.text_bytes = total - int(reached[-1]) + int((wanted - counted).sum())
        return counted

    def _write(self, tokens: Array, num_bytes: Array | None) -> None:
        self._files[TOKENS].write(tokens.astype(self._dtype).tobytes())
        if num_bytes is not None:
            self._files[TEXT_BYTES].write(num_bytes.astype(TEXT_BYTES_TYPE).tobytes())
        self.done.num_tokens += len(tokens)
        self.done.largest_token = max(self.done.largest_token, int(tokens.max(initial=0)))

    def end_document(self) -> None:
        """End the document that is open; one without tokens is none. Its last token has the text that no other stands for."""
        if self.done.num_tokens > self.done.begin:
            num_bytes = min(self.done.text_bytes, MOST_TEXT_BYTES)
            self._write(np.array([self._tokenizer.end_of_document]), np.array([num_bytes]) if self.counts_text_bytes else None)
            self.done.text_bytes -= num_bytes
            self._files[DOCUMENTS].write(np.array([self.done.begin], dtype="<u8").tobytes())
            self.done.num_documents += 1
        else:
            self.done.text_bytes = 0
        self.done.begin = self.done.num_tokens

    def end_block(self) -> None:
        """Keep what there is, and put it on the disk now and then."""
        self._whole = self.done.model_copy()
        if time.monotonic() >= self._saved_s + self._save_every_s:
            self.save()
            self._saved_s = time.monotonic()

    def save(self) -> None:
        """Put the work of all whole blocks on the disk, and then say so."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_text(
            self._partial / PROGRESS, self._whole.model_copy(update={"digests": self._whole.digests[: self._whole.num_files]}).model_dump_json()
        )


def make_tokens(
    files: Sequence[Path],
    output: Path,
    tokenizer: Tokenizer,
    *,
    test_fraction: float = 0.1,
    separator: str | None = None,
    piece: int = PIECE,
    save_every_s: float = SAVE_EVERY_S,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> TokenFacts:
    """Write the tokens of some files, in this order, into a new folder.

    Args:
        files: text, each one document, or cut where `separator` stands; .jsonl: the "text" of each line.
        test_fraction: of the tokens, from the end; between 0 and 1.
        piece: bytes of a file that are read at once.
        save_every_s: how much work a process that is killed loses, at most and about.
        on_progress: told (bytes done, bytes in all).
        on_notice: told why what an earlier call left cannot be used, and where a separator cuts nothing.
    Raises: InputError for what cannot be read or is there already, StorageError.
    """
    _refuse_options(output, test_fraction, separator)
    sizes = [_size(path) for path in files]
    partial = output.with_name(f".{output.name}.part")
    dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.vocabulary_size <= 2**16 else "uint32"
    told = [tokenizer.name, tokenizer.digest, tokenizer.vocabulary_size, tokenizer.end_of_document]
    task = {"files": [str(path) for path in files], "tokenizer": told, "separator": separator, "piece": piece}

    def tell(number: int) -> None:
        on_progress(number, sum(sizes))

    with storage_errors(partial, hint="What was written stays: free some space, then give the same command again."):
        partial.mkdir(parents=True, exist_ok=True)
        done, digest = _earlier(partial, task, files, tell, on_notice)
        with ExitStack() as opened:
            writer = _Writer(partial, tokenizer, dtype, done, opened, save_every_s)
            try:
                _append(writer, files, separator, piece, digest, tell)
            except BaseException:
                with suppress(OSError, StorageError):  # what went wrong first is what a person is told
                    writer.save()
                raise
            writer.save()
        if done.num_tokens < 2:
            shutil.rmtree(partial)
            raise InputError("FILES", "hold no text.", "Give text files.")
        if separator is not None and done.num_documents <= sum(not is_json_lines(path) for path in files):
            on_notice(f"The separator {separator!r} cuts no file in two: each is one document.")
        facts = TokenFacts(
            tokenizer=tokenizer.name,
            vocabulary_size=tokenizer.vocabulary_size,
            dtype=dtype,
            num_tokens=done.num_tokens,
            num_documents=done.num_documents,
            test_start=min(max(round(done.num_tokens * (1 - test_fraction)), 1), done.num_tokens - 1),
            end_of_document=tokenizer.end_of_document,
            mask_token=tokenizer.mask_token,
            largest_token=done.largest_token,
            has_text_bytes=writer.counts_text_bytes,
        )
        write_text(partial / FACTS, facts.model_dump_json() + "\n")
        (partial / PROGRESS).unlink()
        partial.rename(output)
    return facts


def _refuse_options(output: Path, test_fraction: float, separator: str | None) -> None:
    if output.exists():
        raise InputError("--output", f"{output} is there already.", "Remove it first, or give another folder.")
    if not 0.0 < test_fraction < 1.0:
        raise InputError("--test-fraction", f"must lie between 0 and 1, not {test_fraction:g}.", "Example: 0.1.")
    if separator == "":
        raise InputError("--separator", "is empty, and stands everywhere.", "Leave it out: each file is one document.")


def _earlier(
    partial: Path, task: dict[str, Any], files: Sequence[Path], on_progress: Callable[[int], None], on_notice: Callable[[str], None]
) -> tuple[_Progress, hashlib.blake2b]:
    """How far an earlier call came, and the digest of what was read of the file that it was in.

    Where it had something else to do, or what it read is no longer there, nothing of it is left, and why is told.
    """
    reason = ""
    try:
        saved = _Progress.model_validate_json((partial / PROGRESS).read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValidationError):
        reason = "was left by another version"
    else:
        others = [name for name in task if saved.task.get(name) != task[name]]
        found = _same_digest(saved, files, on_progress) if not others else f"was begun with another {' and another '.join(others)}"
        if not isinstance(found, str):
            return saved, found
        reason = found
    if reason:
        on_notice(f"What {partial} holds {reason}: all is turned into tokens anew.")
    for name in (PROGRESS, TOKENS, DOCUMENTS, TEXT_BYTES):
        (partial / name).unlink(missing_ok=True)
    return _Progress(task=task), new_digest()


def _same_digest(saved: _Progress, files: Sequence[Path], on_progress: Callable[[int], None]) -> hashlib.blake2b | str:
    """The digest of what was read of the file that is next; or, in words, which file is no longer what was read of it."""
    before = 0

    def tell(size: int) -> None:
        on_progress(before + size)

    for path, digest in zip(files, saved.digests, strict=False):
        if digest_of(path, None, tell).hexdigest() != digest:
            return f"is of {path} as it was before"
        before += path.stat().st_size
    if not saved.place.block:
        return new_digest()
    found = digest_of(files[saved.num_files], saved.place.block, tell)
    return found if found.hexdigest() == saved.digest else f"is of {files[saved.num_files]} as it was before"


def _append(
    writer: _Writer, files: Sequence[Path], separator: str | None, piece: int, digest: hashlib.blake2b, on_progress: Callable[[int], None]
) -> None:
    """Add what is not there yet of the files. Args: digest: of what was read of the next. on_progress: told how many bytes are done."""
    done = writer.done
    before = sum(path.stat().st_size for path in files[: done.num_files])
    for path in files[done.num_files :]:
        for block in read_blocks(path, separator, piece, done.place, digest):
            for text, is_end in block.texts:
                writer.add(text)
                if is_end:
                    writer.end_document()
            grew = block.place.block > done.place.block
            done.place, done.digest = block.place, digest.hexdigest()
            writer.end_block()
            if grew:
                on_progress(before + done.place.block)
        before += done.place.block
        done.digests.append(digest.hexdigest())
        done.num_files, done.place, done.digest, digest = done.num_files + 1, Place(), "", new_digest()
        writer.end_block()


def _size(path: Path) -> int:
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise InputError("FILES", f"{path} cannot be read ({error.strerror or error}).", "Give text files.") from error
