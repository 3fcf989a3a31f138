"""Token files: text as whole numbers, memory-mapped, so that a set may be larger than memory.

A folder made by `largebatch tokens` (`make_tokens.py`) holds

    tokens.bin       all tokens one after another, uint16 or uint32, little-endian, each document followed by the end-of-document token
    documents.bin    where each document begins, uint64
    tokens.json      `TokenFacts`
"""

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from largebatch.jobs.data.dataset import Held
from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.tasks.number_ranges import IGNORED

Array: TypeAlias = "np.ndarray[Any, Any]"
TOKENS, DOCUMENTS, FACTS = "tokens.bin", "documents.bin", "tokens.json"
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
    bytes_per_token: tuple[int, ...] = ()
    """UTF-8 bytes that each token stands for, by its number; empty: one each, but for tokens beyond 255."""


class TokenSequences(Held):
    """Sequences of one length from a stretch of tokens; sample i is (tokens, targets), both (T,) int64.

    Args:
        tokens: the whole file, memory-mapped.
        starts, stops: (n,) where each sample's tokens begin and end; stop - start is T + 1 at most for next-token targets, else T.
        length: T.
        shift: 1: the target is the next token; 0: the token itself.
        padding: the token that fills a sequence that is shorter; its target does not count.
    """

    def __init__(
        self,
        tokens: Array,
        starts: Array,
        stops: Array,
        length: int,
        shift: int,
        padding: int,
        vocabulary_size: int,
    ) -> None:
        self._tokens, self._starts, self._stops = tokens, starts, stops
        self._length, self._shift, self._padding, self._vocabulary_size = length, shift, padding, vocabulary_size

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        tokens, targets = self.gather(torch.tensor([index]))
        return tokens[0], targets[0]

    @property
    def num_bytes(self) -> int:
        """Memory: what is mapped counts nothing, for the system takes it back."""
        return int(self._starts.nbytes + self._stops.nbytes)

    def select(self, indices: Tensor) -> Held:
        """See `Held`."""
        chosen = indices.numpy()
        return TokenSequences(
            self._tokens, self._starts[chosen], self._stops[chosen], self._length, self._shift, self._padding, self._vocabulary_size
        )

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Samples by their numbers: (tokens, targets), both (n, T) int64. Raises: DataError for a token beyond the vocabulary."""
        chosen = indices.numpy()
        positions = self._starts[chosen][:, None] + np.arange(self._length + self._shift)
        is_there = positions < self._stops[chosen][:, None]
        rows = np.where(is_there, self._tokens[np.minimum(positions, len(self._tokens) - 1)].astype(np.int64), self._padding)
        if rows.size and rows.max() >= self._vocabulary_size:
            place = int(np.argmax((rows >= self._vocabulary_size).any(axis=1)))
            raise DataError(
                "dataset", f"sample {int(chosen[place])} has token {rows[place].max()}, beyond the vocabulary of {self._vocabulary_size}.", MAKE
            )
        targets = np.where(is_there, rows, IGNORED)[:, self._shift :]
        return torch.from_numpy(np.ascontiguousarray(rows[:, : self._length])), torch.from_numpy(np.ascontiguousarray(targets))


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


def token_parts(folder: Path, length: int, documents: str, shift: int) -> tuple[TokenFacts, TokenSequences, TokenSequences]:
    """(facts, training sequences, test sequences).

    Args: documents: "packed": sequences run on over the ends of documents; "padded": each sequence is of one document, filled up.
    Raises: DataError, SpecError.
    """
    if documents not in {"packed", "padded"}:
        raise SpecError("dataset.arguments.documents", f"must be packed or padded, not {documents!r}.")
    facts, tokens, begins = open_tokens(folder)
    parts = []
    for kind, first, last in (("training", 0, facts.test_start), ("test", facts.test_start, facts.num_tokens)):
        starts, stops = packed(first, last, length, shift) if documents == "packed" else by_document(begins, first, last, length, shift)
        if not len(starts):
            raise DataError(
                "dataset.arguments.sequence_length", f"{length} tokens are more than the {last - first} of the {kind} part.", "Use shorter sequences."
            )
        parts.append(TokenSequences(tokens, starts, stops, length, shift, facts.end_of_document, facts.vocabulary_size))
    return facts, parts[0], parts[1]
