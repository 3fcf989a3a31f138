"""What all benchmarks share: measuring sides in turn, and a table that carries its conditions."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

import torch


def parser(description: str | None, repetitions: int) -> argparse.ArgumentParser:
    """An argument parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repetitions", type=int, default=repetitions, help=f"how often each side is measured (default {repetitions})")
    made.add_argument("--output", type=Path, metavar="FILE.md", help="also write the table here, as markdown")
    return made


def in_turn(sides: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Measure A B A B ..., so that what slows the machine for a while slows every side alike."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, measure in sides.items():
            seen[name].append(measure())
    return seen


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of each pair that was measured one after the other."""
    return [over / under for over, under in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Median and quartiles in words: `0.981 (0.975 ... 0.990)`."""
    if len(values) < 2:
        return format(values[0], form)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{median(values):{form}} ({low:{form}} ... {high:{form}})"


def publish(title: str, rows: Sequence[Mapping[str, str]], notes: Sequence[str], given: argparse.Namespace) -> None:
    """Print the table with its conditions and at most five notes, and write it to `--output` if that was asked for."""
    text = page(title, rows, _conditions(given), notes)
    print(text)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text, encoding="utf-8")


def page(title: str, rows: Sequence[Mapping[str, str]], conditions: Sequence[str], notes: Sequence[str]) -> str:
    """A result as markdown: title, table, conditions, notes. How something was found goes to `docs/lab/`.

    Raises: ValueError for more than five notes.
    """
    if len(notes) > 5:
        raise ValueError(f"A result page has at most five notes, not {len(notes)}: the rest belongs to docs/lab.")
    return "\n".join([f"# {title}", "", *_table(rows), "", f"Conditions: {'; '.join(conditions)}.", "", *(f"* {line}" for line in notes), ""])


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    written = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return [written[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *written[1:]]


def _conditions(given: argparse.Namespace) -> list[str]:
    return [
        f"`{command_line()}`",
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {platform.system()} {platform.machine()},"
        f" load average {os.getloadavg()[0]:.1f} at the end",
        f"Python {platform.python_version()}, torch {torch.__version__}",
        f"{given.repetitions} repetitions, the sides in turn, ratios pair by pair: median (lower quartile ... upper quartile)",
    ]


def command_line() -> str:
    """The command as it was given, without the folders of the machine that it ran on."""
    program, *arguments = sys.argv
    kept = [text for before, text in zip(["", *arguments], arguments, strict=False) if not {before, text} & {"--output", "--data-dir"}]
    return shlex.join(["python", f"benchmarks/{Path(program).name}", *kept])


def processor() -> str:
    """The processor's name; platform knows it only on some systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
