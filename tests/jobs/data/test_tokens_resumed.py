"""Token files that were interrupted at any place: the result is as if nothing had happened, and nothing else is taken for the same."""

import json
from pathlib import Path

import pytest

from largebatch.jobs.data import make_tokens as making
from largebatch.jobs.data.make_tokens import Encoded, Tokenizer, byte_tokenizer, make_tokens
from largebatch.jobs.errors import InputError

TEXT = "größe und 日本語\n\nthe ende \U0001f600 of a line\n====\nnext" * 4


class Interrupted(Exception):
    pass


class Counting:
    """The byte tokenizer, which can be interrupted. Args: last: the text at which it is; None: at none."""

    def __init__(self, last: int | None = None) -> None:
        self.num_texts, self._last = 0, last

    def encode(self, text: str) -> Encoded:
        self.num_texts += 1
        if self.num_texts == self._last:
            raise Interrupted
        return byte_tokenizer().encode(text)

    @property
    def tokenizer(self) -> Tokenizer:
        return byte_tokenizer()._replace(encode=self.encode)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def text_files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.txt"]
    files[0].write_text(TEXT)
    files[1].write_text("".join(json.dumps({"text": line}, ensure_ascii=False) + "\n\n" for line in TEXT.split("\n")))
    files[2].write_text("last, without a line's end")
    return files


@pytest.mark.parametrize("separator", [None, "\n====\n"])
@pytest.mark.parametrize("piece", [7, 40])
def test_interrupted_anywhere_the_result_is_the_same(piece: int, separator: str | None, tmp_path: Path) -> None:
    files, how = text_files(tmp_path), {"separator": separator, "piece": piece}
    undisturbed = Counting()
    make_tokens(files, tmp_path / "whole", undisturbed.tokenizer, **how)
    whole = contents(tmp_path / "whole")
    for last in range(1, undisturbed.num_texts + 1, 3):
        output, second = tmp_path / f"out{last}", Counting()
        with pytest.raises(Interrupted):
            make_tokens(files, output, Counting(last).tokenizer, **how)
        assert not output.exists()
        make_tokens(files, output, second.tokenizer, **how)
        assert contents(output) == whole
        assert second.num_texts <= undisturbed.num_texts - last + 1 + 10  # the texts of one block at most are taken again


def test_one_large_file_tells_how_far_it_is_and_goes_on_within(tmp_path: Path) -> None:
    file, told = tmp_path / "big.txt", []
    file.write_text("line of text\n" * 2000)
    with pytest.raises(Interrupted):
        make_tokens([file], tmp_path / "o", Counting(20).tokenizer, piece=1024, on_progress=lambda *numbers: told.append(numbers))
    assert told == [(1024 * number, 26000) for number in range(1, 20)]
    second = Counting()
    make_tokens([file], tmp_path / "o", second.tokenizer, piece=1024)
    assert second.num_texts == 27 - 19  # 26 blocks, and what is left at the end


def test_what_a_killed_process_saved_now_and_then_is_enough(tmp_path: Path) -> None:
    file, saved = tmp_path / "big.txt", []
    file.write_text("line of text\n" * 500)
    progress = tmp_path / ".o.part" / "progress.json"

    def read(done: int, total: int) -> None:
        saved.append(json.loads(progress.read_text()))

    make_tokens([file], tmp_path / "o", byte_tokenizer(), piece=1024, save_every_s=0.0, on_progress=read)
    assert [place["place"][0] for place in saved] == [1024, 2048, 3072, 4096, 5120, 6144, 6500]


class TestOtherContents:
    def begun(self, tmp_path: Path, tokenizer: Tokenizer) -> list[Path]:
        """Two files of which the second is half done."""
        files = [tmp_path / "a.txt", tmp_path / "b.txt"]
        files[0].write_text("old words\n")
        files[1].write_text("second\n" * 4)

        def stop(done: int, total: int) -> None:
            if done >= 10 + 14:
                raise Interrupted

        with pytest.raises(Interrupted):
            make_tokens(files, tmp_path / "o", tokenizer, piece=7, on_progress=stop)
        return files

    def made(self, files: list[Path], tmp_path: Path, tokenizer: Tokenizer) -> list[str]:
        """What was told; the result must be as if nothing had been there before."""
        told: list[str] = []
        make_tokens(files, tmp_path / "o", tokenizer, piece=7, on_notice=told.append)
        make_tokens(files, tmp_path / "fresh", tokenizer, piece=7)
        assert contents(tmp_path / "o") == contents(tmp_path / "fresh")
        return told

    def test_the_same_goes_on_without_a_word(self, tmp_path: Path) -> None:
        files = self.begun(tmp_path, byte_tokenizer())
        assert self.made(files, tmp_path, byte_tokenizer()) == []

    @pytest.mark.parametrize(("name", "text"), [("a.txt", "NEW words\n"), ("a.txt", "old words\nmore"), ("b.txt", "SECOND\n" * 4), ("b.txt", "s")])
    def test_a_file_that_changed(self, tmp_path: Path, name: str, text: str) -> None:
        files = self.begun(tmp_path, byte_tokenizer())
        (tmp_path / name).write_text(text)
        told = self.made(files, tmp_path, byte_tokenizer())
        assert told == [f"What {tmp_path / '.o.part'} holds is of {tmp_path / name} as it was before: all is turned into tokens anew."]

    def test_what_was_not_read_yet_may_change(self, tmp_path: Path) -> None:
        files = self.begun(tmp_path, byte_tokenizer())
        files[1].write_text("second\n" * 2 + "other\n" * 9)
        assert self.made(files, tmp_path, byte_tokenizer()) == []

    def test_another_tokenizer_under_the_same_path(self, tmp_path: Path) -> None:
        tokenizer = byte_tokenizer()._replace(name="t.json", digest="one", encode=a_third)
        told = self.made(self.begun(tmp_path, tokenizer), tmp_path, tokenizer._replace(digest="two"))
        assert told == [f"What {tmp_path / '.o.part'} holds was begun with another tokenizer: all is turned into tokens anew."]

    def test_progress_of_another_version(self, tmp_path: Path) -> None:
        files = self.begun(tmp_path, byte_tokenizer())
        (tmp_path / ".o.part" / "progress.json").write_text('{"num_files": 1}')
        assert "was left by another version" in self.made(files, tmp_path, byte_tokenizer())[0]


def a_third(text: str) -> Encoded:
    """A token for each three bytes."""
    numbers = byte_tokenizer().encode(text).tokens[::3]
    return Encoded(numbers, making.np.arange(len(numbers)) * 3)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        make_tokens([tmp_path / "none"], tmp_path / "o", byte_tokenizer())
