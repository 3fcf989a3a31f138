"""Turns text files into a folder of tokens, piece by piece; what was interrupted goes on where it stopped.

All is written in a folder beside the one asked for, which appears when everything is there.
"""

import codecs
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from largebatch.jobs.data.sources.tokens import DOCUMENTS, FACTS, TOKENS, TokenFacts
from largebatch.jobs.errors import DataError, InputError
from largebatch.jobs.run.run_folder import storage_errors, write_text

PIECE = 2**20
"""Characters that are turned into tokens at a time; a piece ends at the end of a line where there is one."""
PROGRESS = "progress.json"
SPECIAL = ("<|endoftext|>", "</s>", "[SEP]", "<eos>")
"""Tokens that end a document, by their usual names."""
MASKS = ("[MASK]", "<mask>")


class Tokenizer(NamedTuple):
    """Text to tokens."""

    name: str
    vocabulary_size: int
    end_of_document: int
    mask_token: int | None
    bytes_per_token: tuple[int, ...]
    encode: Callable[[str], "np.ndarray[Any, Any]"]


def byte_tokenizer() -> Tokenizer:
    """UTF-8 bytes; 256 ends a document, 257 masks."""
    return Tokenizer("bytes", 258, 256, 257, (), lambda text: np.frombuffer(text.encode(), dtype=np.uint8))


def file_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json of the `tokenizers` library. Raises: InputError where the library or the file is not there."""
    try:
        from tokenizers import Tokenizer as FileTokenizer
    except ImportError:
        raise InputError("--tokenizer", "needs the tokenizers library, which is not installed.", "pip install 'largebatch[text]'") from None
    try:
        loaded = FileTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise InputError("--tokenizer", f"{path} cannot be read: {error}.", "Give bytes, or a tokenizer.json.") from error
    size = loaded.get_vocab_size(with_added_tokens=True)
    end, mask = (next(filter(lambda token: token is not None, map(loaded.token_to_id, names)), None) for names in (SPECIAL, MASKS))
    num_bytes = tuple(len(loaded.decode([token], skip_special_tokens=True).encode()) for token in range(size))
    return Tokenizer(
        str(path),
        size if end is not None else size + 1,
        size if end is None else end,
        mask,
        num_bytes if end is not None else (*num_bytes, 0),
        lambda text: np.array(loaded.encode(text, add_special_tokens=False).ids, dtype=np.uint32),
    )


def make_tokens(
    files: Sequence[Path],
    output: Path,
    tokenizer: Tokenizer,
    *,
    test_fraction: float = 0.1,
    separator: str | None = None,
    piece: int = PIECE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TokenFacts:
    """Write the tokens of some files, in this order, into a new folder.

    Args:
        files: text, each one document, or cut where `separator` stands; .jsonl: the "text" of each line.
        test_fraction: of the tokens, from the end; between 0 and 1.
        piece: bytes of a file that are read at once.
        on_progress: told (bytes done, bytes in all).
    Raises: InputError for what cannot be read or is there already, StorageError.
    """
    if output.exists():
        raise InputError("--output", f"{output} is there already.", "Remove it first, or give another folder.")
    if not 0.0 < test_fraction < 1.0:
        raise InputError("--test-fraction", f"must lie between 0 and 1, not {test_fraction:g}.", "Example: 0.1.")
    sizes = [_size(path) for path in files]
    partial = output.with_name(f".{output.name}.part")
    dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.vocabulary_size <= 2**16 else "uint32"
    task = {"files": [[str(path), size] for path, size in zip(files, sizes, strict=True)], "tokenizer": tokenizer.name, "separator": separator}
    with storage_errors(partial, hint="What was written stays: free some space, then give the same command again."):
        partial.mkdir(parents=True, exist_ok=True)
        done = _progress(partial, task)
        for path in files[done["num_files"] :]:
            _append(partial, _documents(path, separator, piece), tokenizer, dtype, done)
            done["num_files"] += 1
            write_text(partial / PROGRESS, json.dumps({"task": task, **done}))
            on_progress(sum(sizes[: done["num_files"]]), sum(sizes))
        if done["num_tokens"] < 2:
            shutil.rmtree(partial)
            raise InputError("FILES", "hold no text.", "Give text files.")
        facts = TokenFacts(
            tokenizer=tokenizer.name,
            vocabulary_size=tokenizer.vocabulary_size,
            dtype=dtype,
            num_tokens=done["num_tokens"],
            num_documents=done["num_documents"],
            test_start=min(max(round(done["num_tokens"] * (1 - test_fraction)), 1), done["num_tokens"] - 1),
            end_of_document=tokenizer.end_of_document,
            mask_token=tokenizer.mask_token,
            bytes_per_token=tokenizer.bytes_per_token,
        )
        write_text(partial / FACTS, facts.model_dump_json() + "\n")
        (partial / PROGRESS).unlink()
        partial.rename(output)
    return facts


def _progress(partial: Path, task: dict[str, Any]) -> dict[str, int]:
    """How far an earlier call with the same files came; what it wrote beyond that is cut off."""
    done = {"num_files": 0, "num_tokens": 0, "num_documents": 0, "num_bytes": 0}
    try:
        saved = json.loads((partial / PROGRESS).read_text())
        if saved.pop("task") == json.loads(json.dumps(task)):
            done = saved
    except (OSError, ValueError, KeyError):
        pass
    for name, size in ((TOKENS, done["num_bytes"]), (DOCUMENTS, 8 * done["num_documents"])):
        with (partial / name).open("ab") as file:
            file.truncate(size)
    return done


def _append(partial: Path, read: Iterable[Iterable[str]], tokenizer: Tokenizer, dtype: str, done: dict[str, int]) -> None:
    """Add one file's documents, and put them on the disk before they are counted."""
    end = np.array([tokenizer.end_of_document], dtype=f"<{np.dtype(dtype).str[1:]}")
    with (partial / TOKENS).open("ab") as tokens, (partial / DOCUMENTS).open("ab") as documents:
        for document in read:
            begin, length = done["num_tokens"], 0
            for piece in document:
                numbers = tokenizer.encode(piece).astype(end.dtype)
                tokens.write(numbers.tobytes())
                length += len(numbers)
            if not length:
                continue
            tokens.write(end.tobytes())
            documents.write(np.array([begin], dtype="<u8").tobytes())
            done["num_tokens"] += length + 1
            done["num_documents"] += 1
        for file in (tokens, documents):
            file.flush()
            os.fsync(file.fileno())
        done["num_bytes"] = tokens.tell()


def _size(path: Path) -> int:
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise InputError("FILES", f"{path} cannot be read ({error.strerror or error}).", "Give text files.") from error


def _documents(path: Path, separator: str | None, piece: int) -> Iterator[Iterator[str]]:
    """The documents of a file, each in pieces; each must be read before the next is asked for."""
    if path.suffix == ".jsonl":
        for number, line in enumerate(_lines(path, piece), 1):
            if line.strip():
                yield iter((_text_of(line, path, number),))
    elif separator is None:
        yield _pieces(path, piece)
    else:
        rest = ""
        for text in _pieces(path, piece):
            *whole, rest = (rest + text).split(separator)
            yield from (iter((document,)) for document in whole)
        yield iter((rest,))


def _lines(path: Path, piece: int) -> Iterator[str]:
    rest = ""
    for text in _pieces(path, piece):
        *whole, rest = (rest + text).split("\n")
        yield from whole
    yield rest


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("FILES", f"line {number} of {path} is no JSON object with a text.", 'Each line is {"text": "..."}.') from error
    if not isinstance(text, str):
        raise DataError("FILES", f'the "text" in line {number} of {path} is a {type(text).__name__}.', 'Each line is {"text": "..."}.')
    return text


def _pieces(path: Path, size: int) -> Iterator[str]:
    """A file's text in pieces that end at a line's end, so that no word is cut. Raises: DataError for what is no UTF-8 text."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")(), ""
    with path.open("rb") as file:
        try:
            while block := file.read(size):
                text = rest + decoder.decode(block)
                cut = text.rfind("\n") + 1 or len(text)
                yield text[:cut]
                rest = text[cut:]
            yield rest + decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            position = file.tell() - len(error.object) + error.start
            raise DataError("FILES", f"{path} is not UTF-8 text: byte {position} cannot be read.", "Convert it, for instance with iconv.") from error
