"""Whether a run was stopped while its clock went on."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest

from largebatch.jobs.engine.standstill import Standstill, in_words

FORK = multiprocessing.get_context("fork")  # importing torch anew takes longer than what is looked at


def watch(told: Connection, does: Callable[[Connection], object]) -> None:
    with Standstill(beat_s=0.05, shortest_s=0.3) as standstill:
        told.send("begun")
        does(told)
    told.send(standstill.seconds)


def watching(does: Callable[[Connection], object]) -> tuple[BaseProcess, Connection]:
    """A process that watches itself while it does something; it has begun."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=watch, args=(there, does))
    process.start()
    assert here.recv() == "begun"
    return process, here


def computes(told: Connection) -> None:
    while not told.poll():
        sum(range(1000))


@pytest.mark.parametrize("does", [Connection.recv, computes], ids=["waits", "computes"])
def test_a_stop_is_counted(does: Callable[[Connection], object]) -> None:
    process, told = watching(does)
    time.sleep(0.2)
    for _ in range(2):
        os.kill(process.pid or 0, signal.SIGSTOP)
        time.sleep(0.8)
        os.kill(process.pid or 0, signal.SIGCONT)
        time.sleep(0.3)
    told.send("enough")
    assert told.recv() == pytest.approx(1.6, abs=0.5)
    process.join()


def sleeps(told: Connection) -> None:
    time.sleep(0.8)


def keeps_the_lock_of_the_interpreter(told: Connection) -> None:
    sys.set_int_max_str_digits(0)
    len(str(7**400_000))


@pytest.mark.parametrize("does", [sleeps, keeps_the_lock_of_the_interpreter])
def test_what_goes_on_is_no_stop(does: Callable[[Connection], object]) -> None:
    process, told = watching(does)
    assert told.recv() == 0.0
    process.join()


def test_words() -> None:
    assert in_words(0.0, 60.0) is None
    assert "The run stood still for 41 s" in (in_words(41.2, 60.0) or "")


def test_it_ends_at_once() -> None:
    began_s = time.perf_counter()
    with Standstill(beat_s=60.0):
        pass
    assert time.perf_counter() - began_s < 30.0
