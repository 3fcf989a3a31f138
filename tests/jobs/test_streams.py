"""Output that nobody reads is dropped, and standard output holds the answer alone: each in a process whose streams are its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from largebatch.jobs.streams import print_answer, standard_output_kept

BEGIN = "import os, sys; from largebatch.jobs.streams import *; drop_what_nobody_reads()\n"
GONE = (
    BEGIN
    + """
import subprocess
sys.stdin.readline()  # by now the reader is gone
for number in range(3):
    print("to standard output", number)
    print("to standard error", number, file=sys.stderr, flush=True)
    sys.stdout.flush()
os.write(2, b"as a library in C")
subprocess.run(["sh", "-c", "echo from a further process >&2"], check=True)
open(sys.argv[1], "w").write("worked on")
"""
)
ANSWER = (
    BEGIN
    + """
import ctypes, subprocess
print("before")
with standard_output_kept():
    print("from a person's code")
    os.write(1, b"from a library\\n")
    ctypes.CDLL(None).printf(b"held back by a library in C\\n")
    subprocess.run(["echo", "from a further process"], check=True)
    print_answer('{"answer": 1}')
print("afterwards")
"""
)


@pytest.mark.parametrize("gone", ["stderr", "both"])
def test_a_reader_that_ends_ends_no_work(gone: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", GONE, tmp_path / "done"],
        stdin=subprocess.PIPE, stdout=write if gone == "both" else subprocess.PIPE, stderr=write, text=True,
    )  # fmt: skip
    os.close(read)
    os.close(write)
    out, _ = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "done").read_text() == "worked on"
    if gone == "stderr":
        assert out == "".join(f"to standard output {number}\n" for number in range(3))


def test_streams_that_are_closed_from_the_start_are_no_files_that_are_opened_later(tmp_path: Path) -> None:
    code = BEGIN + "f = open(sys.argv[1], 'w'); os.write(2, b'noise'); print('noise'); f.write('kept')"
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", code, tmp_path / "journal"], check=False)
    assert done.returncode == 0
    assert (tmp_path / "journal").read_text() == "kept"


def test_standard_output_holds_the_answer_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ANSWER], capture_output=True, text=True, check=True)
    assert done.stdout == 'before\n{"answer": 1}\n'
    for line in ("from a person's code", "from a library", "held back by a library in C", "from a further process", "afterwards"):
        assert line in done.stderr


def test_within_a_process_that_has_its_output_captured_it_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stdout
    with standard_output_kept():
        print("noise")
        print_answer(json.dumps([1]))
    assert sys.stdout is stream
    print_answer("later")
    assert capsys.readouterr() == ("[1]\nlater\n", "noise\n")
