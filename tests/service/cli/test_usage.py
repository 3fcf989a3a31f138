"""Command lines that cannot be understood: one sentence each, with the option or argument, what is wrong and what to do."""

import os
import subprocess
import sys

import pytest
from command_line import said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("scale --largest-share 0", "--largest-share: 0 is not at least 1. `largebatch scale --help` says what it takes."),
        ("landscape --steps 1", "--steps: 1 is not between 2 and 1000. `largebatch landscape --help` says what it takes."),
        ("landscape --steps x", "--steps: 'x' is not a whole number. `largebatch landscape --help` says what it takes."),
        (
            "branch x --rate foo",
            "--rate: 'foo' is not one of 'auto', 'none', 'sqrt', 'linear', 'tuned'. `largebatch branch --help` says what it takes.",
        ),
        ("branch", "RUN: is missing. `largebatch branch --help` says what it takes."),
        ("plan --json", "RECIPE: is missing. `largebatch plan --help` says what it takes."),
        ("train a b c", "Got unexpected extra argument(s) (b c). `largebatch train --help` says what it takes."),
        ("train --workers", "--workers: requires an argument."),
        ("train --json=3", "--json: does not take a value."),
        ("train --xyzzy", "--xyzzy: is no option of `largebatch train`. `largebatch train --help` says what it takes."),
        ("advise --lr", "--lr: is no option of `largebatch advise`. `largebatch advise --help` says what it takes."),
        ("train --dry-rnu", "--dry-rnu: is no option of `largebatch train`. Did you mean --dry-run?"),
        ("--xyzzy", "--xyzzy: is no option of `largebatch`. `largebatch --help` says what it takes."),
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("remote lst", "No such command 'lst'. Did you mean 'list'?"),
        ("xyzzy", "No such command 'xyzzy'. `largebatch --help` says what it takes."),
    ],
)
def test_it_is_refused_in_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, *arguments.split()) == (2, "", f"InputError: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "proposed"),
    [
        ("train small.json --epocs 3", "--set stop.epochs=VALUE"),
        ("plan small.json --batch-size 64", "--set batch.global_batch_size=VALUE"),
        ("study small.json --optimizer lamb", "--optimizers or --set optimizer.name=VALUE"),
        ("train small.json --seed 3", "--set seed=VALUE"),
        ("train small.json --amp", "--set precision=bfloat16"),
        ("remote submit small.json --lr 0.1", "--set learning_rate.base=VALUE"),
    ],
)
def test_a_field_that_is_given_as_an_option_is_named(arguments: str, proposed: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.endswith(f" Did you mean {proposed}?\n")


@pytest.mark.parametrize("group", ["", "remote", "db"])
def test_no_words_at_all_show_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *group.split())
    assert code == 2
    assert "Usage: largebatch" in out + err
    assert "InputError" not in out + err


def test_a_reader_that_leaves_is_no_mistake() -> None:
    """As `largebatch --help | head -0` does."""
    code = "import sys; sys.argv = ['largebatch', '--help']; from largebatch.service.cli.main import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        ended = subprocess.run([sys.executable, "-c", code], check=False, stdout=unread, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.stderr == ""
