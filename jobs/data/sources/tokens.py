"""Token files: text as whole numbers, memory-mapped, so that a set may be larger than memory.

A folder made by `largebatch tokens` (`make_tokens.py`) holds

    tokens.bin       all tokens one after another, uint16 or uint32, little-endian, each document followed by the end-of-document token
    documents.bin    where each document begins, uint64
    text_bytes.bin   how many UTF-8 bytes of the text each token stands for, uint16; not where a token is a byte
    tokens.json      `TokenFacts`
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.samples.dataset import Held
from largebatch.jobs.samples.number_ranges import IGNORED

Array: TypeAlias = np.ndarray[Any, Any]
TOKENS, DOCUMENTS, TEXT_BYTES, FACTS = "tokens.bin", "documents.bin", "text_bytes.bin", "tokens.json"
TEXT_BYTES_TYPE = "<u2"
NUM_BYTES = 256
CHECKED_AT_ONCE = 2**24
"""Tokens."""
SAYS_AFTER_S, SAYS_EVERY_S = 2.0, 10.0
MAKE = "Make it again with `largebatch tokens`."


class TokenFacts(BaseModel):
    """What a folder of tokens says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tokenizer: str
    """"bytes", or the file that the tokens were made with."""
    vocabulary_size: int
    dtype: Literal["uint16", "uint32"]
    num_tokens: int
    num_documents: int
    test_start: int
    """Tokens from here on are the test set's."""
    end_of_document: int
    mask_token: int | None = None
    largest_token: int | None = None
    """The largest number in the file; None: not known, of folders of earlier versions."""
    has_text_bytes: bool = False
    """Whether there is a file of the bytes of text that each token stands for."""

    @property
    def bytes_per_token(self) -> tuple[int, ...]:
        """UTF-8 bytes that each token stands for, by its number, where that follows from it; else empty."""
        return (1,) * NUM_BYTES + (0,) * (self.vocabulary_size - NUM_BYTES) if self.tokenizer == "bytes" else ()

    @property
    def knows_text_bytes(self) -> bool:
        """Whether it can be told how many bytes of the text some tokens stand for."""
        return self.has_text_bytes or bool(self.bytes_per_token)


@dataclass(frozen=True, eq=False)
class TokenSequences(Held):
    """Sequences of one length from a stretch of tokens; sample i is (tokens, targets), both (T,) int64, maybe with the targets' bytes.

    Args:
        tokens: the whole file, memory-mapped.
        starts, stops: (n,) where each sample's tokens begin and end; stop - start is T + 1 at most for next-token targets, else T.
        length: T.
        shift: 1: the target is the next token; 0: the token itself.
        padding: the token that fills a sequence that is shorter; its target does not count.
        text_bytes: of the whole file, how many bytes of text each token stands for; given, samples are (tokens, targets, the targets' bytes), the
            last (T,) int32.
    """

    tokens: Array
    starts: Array
    stops: Array
    length: int
    shift: int
    padding: int
    vocabulary_size: int
    text_bytes: Array | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(leaf[0] for leaf in self.gather(torch.tensor([index])))

    @property
    def num_bytes(self) -> int:
        """Memory: what is mapped counts nothing, for the system takes it back."""
        return int(self.starts.nbytes + self.stops.nbytes)

    def select(self, indices: Tensor) -> Held:
        """See `Held`."""
        chosen = indices.numpy()
        return replace(self, starts=self.starts[chosen], stops=self.stops[chosen])

    def gather(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Samples by their numbers, each tensor (n, T). Raises: DataError for a token beyond the vocabulary."""
        chosen = indices.numpy()
        positions = self.starts[chosen][:, None] + np.arange(self.length + self.shift)
        is_there = positions < self.stops[chosen][:, None]
        positions = np.minimum(positions, len(self.tokens) - 1)
        rows = np.where(is_there, self.tokens[positions].astype(np.int64), self.padding)
        if rows.size and rows.max() >= self.vocabulary_size:
            place = int(np.argmax((rows >= self.vocabulary_size).any(axis=1)))
            raise DataError(
                "dataset", f"sample {int(chosen[place])} has token {rows[place].max()}, beyond the vocabulary of {self.vocabulary_size}.", MAKE
            )
        targets = np.where(is_there, rows, IGNORED)[:, self.shift :]
        read = [rows[:, : self.length], targets]
        if self.text_bytes is not None:
            read.append(np.where(is_there, self.text_bytes[positions].astype(np.int32), 0)[:, self.shift :])
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in read)

    def sample_at(self, position: int) -> int | None:
        """The number of the sample that a token of the file begins or lies in, of a part whose samples are in the file's order; None: of none."""
        index = int(np.searchsorted(self.starts, position, side="right")) - 1
        return index if index >= 0 and position < self.stops[index] else None


def open_tokens(folder: Path) -> tuple[TokenFacts, Array, Array]:
    """(facts, tokens, where documents begin) of a folder. Raises: DataError for one that is not there, or cut short."""
    try:
        facts = TokenFacts.model_validate_json((folder / FACTS).read_bytes())
    except FileNotFoundError:
        hint = f"Make it: largebatch tokens FILES... --output {folder}"
        raise DataError("dataset.arguments.path", f"{folder} is no folder of tokens: it has no {FACTS}.", hint) from None
    except (OSError, ValidationError) as error:
        raise DataError("dataset.arguments.path", f"{folder / FACTS} cannot be read: {str(error).splitlines()[0]}.", MAKE) from error
    tokens = _mapped(folder / TOKENS, facts.dtype, facts.num_tokens)
    return facts, tokens, _mapped(folder / DOCUMENTS, "uint64", facts.num_documents)


def _mapped(path: Path, dtype: str, length: int) -> Array:
    expected = length * np.dtype(dtype).itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            raise DataError("dataset.arguments.path", f"{path} has {size:,} bytes, and {expected:,} were written: it is cut short or damaged.", MAKE)
        return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    except OSError as error:
        raise DataError("dataset.arguments.path", f"{path} cannot be read ({error.strerror or error}).", MAKE) from error


def packed(first: int, last: int, length: int, shift: int) -> tuple[Array, Array]:
    """(starts, stops) of sequences of exactly `length` tokens, one after another; what is left at the end is not used."""
    number = max((last - first - shift) // length, 0)
    starts = first + length * np.arange(number, dtype=np.int64)
    return starts, starts + length + shift


def by_document(documents: Array, first: int, last: int, length: int, shift: int) -> tuple[Array, Array]:
    """(starts, stops) of sequences that end with their document: long documents in pieces of `length`, the last of each shorter."""
    begins = documents[(documents >= first) & (documents < last)].astype(np.int64)
    if not len(begins) or begins[0] > first:
        begins = np.insert(begins, 0, first)  # the part begins in the middle of a document
    ends = np.append(begins[1:], last)
    numbers = np.maximum(-(-(ends - begins - shift) // length), 0)
    owners = np.repeat(np.arange(len(begins)), numbers)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    starts = begins[owners] + place * length
    return starts, np.minimum(starts + length + shift, ends[owners])


def token_parts(
    folder: Path, length: int, documents: str, shift: int, *, reads_text_bytes: bool = False
) -> tuple[TokenFacts, TokenSequences, TokenSequences]:
    """(facts, training sequences, test sequences).

    Args:
        documents: "packed": sequences run on over the ends of documents; "padded": each sequence is of one document, filled up.
        reads_text_bytes: whether samples have a third tensor, the bytes of text of each target, where the folder has them.
    Raises: DataError, SpecError.
    """
    if documents not in {"packed", "padded"}:
        raise SpecError("dataset.arguments.documents", f"must be packed or padded, not {documents!r}.")
    facts, tokens, begins = open_tokens(folder)
    text_bytes = _mapped(folder / TEXT_BYTES, TEXT_BYTES_TYPE, facts.num_tokens) if reads_text_bytes and facts.has_text_bytes else None
    parts = {}
    for kind, first, last in (("training", 0, facts.test_start), ("test", facts.test_start, facts.num_tokens)):
        starts, stops = packed(first, last, length, shift) if documents == "packed" else by_document(begins, first, last, length, shift)
        if not len(starts):
            raise DataError(
                "dataset.arguments.sequence_length", f"{length} tokens are more than the {last - first} of the {kind} part.", "Use shorter sequences."
            )
        parts[kind] = TokenSequences(tokens, starts, stops, length, shift, facts.end_of_document, facts.vocabulary_size, text_bytes)
    _refuse_beyond_vocabulary(folder, facts, parts)
    return facts, parts["training"], parts["test"]


def _refuse_beyond_vocabulary(folder: Path, facts: TokenFacts, parts: dict[str, TokenSequences]) -> None:
    """Raise DataError for a file with a token beyond the vocabulary: before training, for a run would meet it at any time.

    What the folder says of itself is believed where the tokens were written before it was said, and else looked at: once a process.
    """
    path, number = folder / TOKENS, facts.vocabulary_size
    changed_ns = path.stat().st_mtime_ns
    if facts.largest_token is not None and facts.largest_token < number and changed_ns < (folder / FACTS).stat().st_mtime_ns:
        return
    place = first_beyond(path, facts.dtype, facts.num_tokens, number, changed_ns)
    if place is None:
        return
    position, token = place
    samples = {kind: part.sample_at(position) for kind, part in parts.items()}
    where = next((f"{kind} sample {index}" for kind, index in samples.items() if index is not None), f"{path}, in no sample,")
    raise DataError("dataset", f"{where} has token {token} (number {position} of the file), beyond the vocabulary of {number}.", MAKE)


@lru_cache(maxsize=16)
def first_beyond(
    path: Path, dtype: str, num_tokens: int, vocabulary_size: int, changed_ns: int, says_after_s: float = SAYS_AFTER_S
) -> tuple[int, int] | None:
    """(position, number) of the first token beyond the vocabulary; None: there is none.

    Args: changed_ns: a file that changed is read anew; says_after_s: so long nothing is said of how far it is.
    """
    tokens, say_s = _mapped(path, dtype, num_tokens), time.monotonic() + says_after_s
    for start in range(0, num_tokens, CHECKED_AT_ONCE):
        chunk = tokens[start : start + CHECKED_AT_ONCE]
        if int(chunk.max()) >= vocabulary_size:
            place = int(np.argmax(chunk >= vocabulary_size))
            return start + place, int(chunk[place])
        if time.monotonic() >= say_s:
            say_s = time.monotonic() + SAYS_EVERY_S
            print(f"Looking through {path}: {start / num_tokens:.0%}", file=sys.stderr, flush=True)
    return None
