"""Token files: made whole or not at all, read back exactly, refused where they are cut short."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.data.sources import tokens as token_files
from largebatch.jobs.data.sources.tokens import TokenSequences, open_tokens, token_parts
from largebatch.jobs.errors import DataError, InputError, SpecError

END = 256


def folder_of(tmp_path: Path, *texts: str, test_fraction: float = 0.25, **how: Any) -> Path:
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text(text)
    make_tokens(files, tmp_path / "tokens", byte_tokenizer(), test_fraction=test_fraction, **how)
    return tmp_path / "tokens"


def all_tokens(folder: Path) -> list[int]:
    return np.fromfile(folder / "tokens.bin", dtype="<u2").tolist()


def test_documents_one_after_another(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "größe", "b")
    assert all_tokens(folder) == [*"größe".encode(), END, *b"b", END]
    facts, tokens, documents = open_tokens(folder)
    assert (facts.num_tokens, facts.num_documents, facts.vocabulary_size) == (len(tokens), 2, 258)
    assert documents.tolist() == [0, 8]
    assert facts.test_start == round(10 * 0.75)


@pytest.mark.parametrize("piece", [1, 5, 100])
def test_a_file_is_cut_at_its_separators_wherever_pieces_end(piece: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "one\ntwo\n====\nthree\n====\nfour", separator="\n====\n", piece=piece)
    text = bytes(token if token != END else 0 for token in all_tokens(folder)).decode()
    assert text.split("\0")[:-1] == ["one\ntwo", "three", "four"]


def test_lines_of_json(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x"}\n\n{"text": "yz"}\n')
    facts = make_tokens([file], tmp_path / "out", byte_tokenizer())
    assert (facts.num_documents, all_tokens(tmp_path / "out")) == (2, [*b"x", END, *b"yz", END])
    file.write_text('{"text": "x"}\n{"body": "y"}\n')
    with pytest.raises(DataError, match=r"line 2 of .* is no JSON object with a text"):
        make_tokens([file], tmp_path / "other", byte_tokenizer())
    assert not (tmp_path / "other").exists()


def test_what_was_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The second file cannot be read at first; the first is not read again, and the result is as if nothing had happened."""
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("first")
    files[1].write_bytes(b"sec\xffnd")
    with pytest.raises(DataError, match="is not UTF-8 text: byte 3"):
        make_tokens(files, tmp_path / "out", byte_tokenizer())
    partial = tmp_path / ".out.part"
    assert json.loads((partial / "progress.json").read_text())["num_files"] == 1
    assert not (tmp_path / "out").exists()
    files[1].write_bytes(b"sec\x20nd")  # as long as before
    told: list[tuple[int, int]] = []
    make_tokens(files, tmp_path / "out", byte_tokenizer(), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 11), (11, 11)]  # the first is looked at, not turned into tokens
    assert all_tokens(tmp_path / "out") == [*b"first", END, *b"sec nd", END]
    assert not partial.exists()


@pytest.mark.parametrize(
    ("fraction", "problem"), [(0.0, "must lie between 0 and 1"), (1.0, "must lie between 0 and 1"), (math.nan, "must lie between 0 and 1")]
)
def test_other_fractions_are_refused(tmp_path: Path, fraction: float, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        folder_of(tmp_path, "text", test_fraction=fraction)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    folder_of(tmp_path, "text")
    with pytest.raises(InputError, match="is there already"):
        folder_of(tmp_path, "other")
    assert all_tokens(tmp_path / "tokens") == [*b"text", END]


@pytest.mark.parametrize("texts", [(), ("",)])
def test_no_text_is_refused(tmp_path: Path, texts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="hold no text"):
        folder_of(tmp_path, *texts)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".txt"] == []


class TestPacked:
    def test_targets_are_the_next_tokens(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "abcdefghijklmnopqrst", test_fraction=0.4)
        facts, train, test = token_parts(folder, 4, "packed", shift=1)
        everything = all_tokens(folder)
        assert len(train) == (facts.test_start - 1) // 4
        tokens, targets = train.gather(torch.tensor([2, 0]))
        assert tokens.tolist() == [everything[8:12], everything[0:4]]
        assert targets.tolist() == [everything[9:13], everything[1:5]]
        assert test[0][0].tolist() == everything[facts.test_start : facts.test_start + 4]
        assert tokens.dtype == targets.dtype == torch.int64

    def test_no_sequence_looks_into_the_test_part(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "x" * 101, test_fraction=0.5)
        facts, train, _ = token_parts(folder, 10, "packed", shift=1)
        assert facts.test_start == 51
        assert len(train) == 5

    def test_masked_targets_are_the_tokens(self, tmp_path: Path) -> None:
        _, train, _ = token_parts(folder_of(tmp_path, "abcdefghijklmnop"), 4, "packed", shift=0)
        assert torch.equal(*train[1])


class TestPadded:
    def test_a_sequence_ends_with_its_document(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "abcdef", "xy", "12345678", test_fraction=0.4)
        facts, train, test = token_parts(folder, 4, "padded", shift=1)
        assert facts.test_start == 11
        samples = [tuple(side.tolist() for side in train[index]) for index in range(len(train))]
        a, x = [*b"abcdef"], [*b"xy"]
        assert samples == [
            (a[:4], a[1:5]),
            ([*a[4:], END, END], [a[5], END, -100, -100]),
            ([*x, END, END], [x[1], END, -100, -100]),
        ]
        num_targets = sum(int((test[index][1] != -100).sum()) for index in range(len(test)))
        assert num_targets == facts.num_tokens - facts.test_start - 1  # one document: its first token is nobody's target

    def test_documents_of_one_token_give_no_sample(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "a", "bc", "defg" * 10, test_fraction=0.5)
        _, train, _ = token_parts(folder, 8, "padded", shift=1)
        first = train[0]
        assert (first[0][:2].tolist(), first[1][:1].tolist()) == ([97, END], [END])

    def test_every_token_is_a_target_once(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        texts = ["".join(generator.choice(list("abc"), size=int(length))) for length in generator.integers(1, 60, 40)]
        folder = folder_of(tmp_path, *texts, test_fraction=0.3)
        facts, tokens, documents = open_tokens(folder)
        for shift in (0, 1):
            _, train, test = token_parts(folder, 7, "padded", shift)
            counted = sum(int((part[index][1] != -100).sum()) for part in (train, test) for index in range(len(part)))
            begins = len(documents) + (facts.test_start not in documents)
            assert counted == len(tokens) - (begins if shift else 0)


class TestBeyondTheVocabulary:
    """A token that the vocabulary does not have is met before training, wherever it stands."""

    def damaged(self, tmp_path: Path, position: int) -> Path:
        folder = folder_of(tmp_path, "hello world " * 100, test_fraction=0.5)
        tokens = np.fromfile(folder / "tokens.bin", dtype="<u2")
        tokens[position] = 999
        tokens.tofile(folder / "tokens.bin")
        return folder

    @pytest.mark.parametrize(("position", "where"), [(500, "training sample 31"), (1000, "test sample 25"), (595, "tokens.bin, in no sample,")])
    def test_its_sample_is_named(self, tmp_path: Path, position: int, where: str) -> None:
        with pytest.raises(DataError, match=f"{where} has token 999 .*, beyond the vocabulary of 258"):
            token_parts(self.damaged(tmp_path, position), 16, "packed", 1)

    def test_folders_of_earlier_versions_are_looked_through_as_well(self, tmp_path: Path) -> None:
        folder = self.damaged(tmp_path, 500)
        facts = json.loads((folder / "tokens.json").read_text())
        assert facts.pop("largest_token") == 256
        (folder / "tokens.json").write_text(json.dumps(facts))
        os.utime(folder / "tokens.bin", (0, 0))
        with pytest.raises(DataError, match="training sample 31 has token 999"):
            token_parts(folder, 16, "packed", 1)

    def test_what_was_not_touched_is_not_looked_through_again(self, tmp_path: Path) -> None:
        folder = self.damaged(tmp_path, 500)
        os.utime(folder / "tokens.bin", (0, 0))  # as if it were as it was made: a look would find the token
        token_parts(folder, 16, "packed", 1)

    def test_a_long_look_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = folder_of(tmp_path, "hello world " * 100)
        assert token_files.first_beyond(folder / "tokens.bin", "uint16", 1201, 258, 0, says_after_s=0.0) is None
        assert capsys.readouterr().err == f"Looking through {folder / 'tokens.bin'}: 0%\n"


class TestRefused:
    def test_a_file_cut_short(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "abcdefgh")
        with (folder / "tokens.bin").open("r+b") as file:
            file.truncate(9)
        with pytest.raises(DataError, match=r"has 9 bytes, and 18 were written: it is cut short"):
            open_tokens(folder)

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"has no tokens.json"):
            open_tokens(tmp_path)

    def test_a_token_beyond_the_vocabulary_names_its_sample(self) -> None:
        tokens = np.array([1, 2, 3, 900, 4, 5], dtype=np.uint16)
        starts = np.array([0, 2, 4])
        part = TokenSequences(tokens, starts, starts + 2, 2, 0, 0, 258)
        with pytest.raises(DataError, match="sample 1 has token 900, beyond the vocabulary of 258"):
            part.gather(torch.tensor([0, 2, 1]))

    def test_sequences_longer_than_the_text(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="100 tokens are more than"):
            token_parts(folder_of(tmp_path, "short"), 100, "packed", 1)
        with pytest.raises(SpecError, match="must be packed or padded"):
            token_parts(tmp_path / "tokens", 2, "wrapped", 1)


def test_half_of_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.JSONL"
    file.write_text('{"text": "\\ud83d\\ude00"}\n')
    make_tokens([file], tmp_path / "out", byte_tokenizer())
    assert all_tokens(tmp_path / "out") == [*"\U0001f600".encode(), END]
    file.write_text('{"text": "x"}\n{"text": "a\\ud83d"}\n')
    with pytest.raises(DataError, match=r'the "text" in line 2 of .* holds half of a surrogate pair, .ud83d'):
        make_tokens([file], tmp_path / "other", byte_tokenizer())


def test_a_separator_that_cuts_nothing_is_told(tmp_path: Path) -> None:
    file, told = tmp_path / "a.txt", list[str]()
    file.write_bytes(b"one\r\n---\r\ntwo")
    assert make_tokens([file], tmp_path / "no", byte_tokenizer(), separator="\n---\n", on_notice=told.append).num_documents == 1
    assert told == ["The separator '\\n---\\n' cuts no file in two: each is one document."]
    assert make_tokens([file], tmp_path / "yes", byte_tokenizer(), separator="---", on_notice=told.append).num_documents == 2
    assert len(told) == 1
    with pytest.raises(InputError, match="--separator: is empty, and stands everywhere"):
        make_tokens([file], tmp_path / "empty", byte_tokenizer(), separator="")
