"""The options of a training command: the name, type, help and default of each stand here, once.

Every door derives its own from them: typer's parameters (`service/cli/typer_parameters.py`), argparse's arguments (`jobs/__main__.py`), and the words
of a service's backend or of a hint how to go on (`TrainOptions.arguments`), which both doors read back. Standard library alone: help is quick.
"""

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, get_args, get_type_hints
from urllib.parse import unquote, urlsplit

from largebatch.jobs.errors import InputError, SpecError


@dataclass(frozen=True)
class Option:
    """What a command line says of a field beside its name, type and default.

    Args:
        flag: its name there, where that is not made of the field's.
        variable: the environment variable that stands in for it.
        minimum, maximum: the smallest and the largest number that is taken.
        is_argument: it has no name, but a position.
        is_found_out: without it, `read` finds a value.
        is_text: the parsers leave it as it was typed; `read` makes the field's value of it.
    """

    help: str
    flag: str | None = None
    metavar: str | None = None
    variable: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    is_found_out: bool = False
    is_argument: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class Workers:
    """How many workers share each batch; `least` below `most`: as many as there are, within these bounds."""

    least: int
    most: int

    @property
    def is_elastic(self) -> bool:
        """Whether the run may go on with fewer."""
        return self.least < self.most

    def __str__(self) -> str:
        return f"{self.least}:{self.most}" if self.is_elastic else str(self.most)


RECIPE = Option("A recipe's name (see `largebatch recipes`), the path of a YAML or JSON file, or - for standard input.", is_argument=True)
OUTPUT_DIR = Option("Where run folders go: a folder, or a URI such as s3://bucket/runs.", variable="LARGEBATCH_OUTPUT_DIR", is_text=True)
Overrides = Annotated[tuple[str, ...], Option("Override one value, such as batch.global_batch_size=512.", flag="--set", metavar="KEY=VALUE")]
DataDir = Annotated[Path, Option("Where data sets lie, as torchvision lays them out.", variable="LARGEBATCH_DATA_DIR")]
Device = Annotated[str, Option("auto, cpu or cuda.")]
RayAddress = Annotated[str | None, Option("An existing Ray, such as 10.0.0.1:6379; without it the command brings its own where it needs one.")]
GpusPerWorker = Annotated[float | None, Option("GPUs of each worker; default 1 where there are enough.", metavar="G")]
CpusPerWorker = Annotated[float | None, Option("CPUs of each worker; may be a fraction.", metavar="C")]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that a launch needs beside the spec, with the recipe and the overrides that the spec is read from."""

    recipe: Annotated[str | None, RECIPE] = None
    overrides: Overrides = ()
    resume: Annotated[Path | None, Option("Go on from a run's newest checkpoint.", metavar="RUN_DIR", is_text=True)] = None
    data_dir: DataDir = Path("data")
    output_dir: Annotated[Path, OUTPUT_DIR] = Path("runs")
    device: Device = "auto"
    run_id: Annotated[str | None, Option("The run's id; given again, the run goes on from its newest checkpoint.")] = None
    workers: Annotated[
        Workers | None,
        Option("Share each batch among so many workers, by Ray; MIN:MAX: as many as there are.", metavar="N|MIN:MAX", is_text=True),
    ] = None
    """None: this process alone."""
    gpus_per_worker: GpusPerWorker = None
    cpus_per_worker: CpusPerWorker = None
    """None: this machine's cores shared out, or one on another Ray."""
    address: RayAddress = None
    max_failures: Annotated[int, Option("How often a run of several workers goes on by itself after a failure.", minimum=0)] = 8
    """Preemptions are not counted."""
    worker_logs: Annotated[bool, Option("Print what the workers print, not only what the run tells.")] = False
    log_model: Annotated[bool, Option("Log the trained model in MLflow; as tracking.log_model in the recipe.")] = False
    register: Annotated[str | None, Option("Register the trained model in MLflow under this name.", metavar="NAME")] = None
    store: str | None = None
    """URI of the storage that keeps run folders: `output_dir` and `resume` lie in this machine's working copy, then."""

    @classmethod
    def read(
        cls, *, overrides: Iterable[str] | None = None, output_dir: str = "runs", resume: str | None = None, workers: str | None = None, **values: Any
    ) -> Self:
        """The options that a person typed: the folders may be URIs, and workers bounds. Raises: InputError."""
        options = cls(overrides=tuple(overrides or ()), workers=None if workers is None else read_workers(workers), **values)
        for option in ("gpus_per_worker", "cpus_per_worker", "address"):
            if workers is None and getattr(options, option) is not None:
                raise SpecError(f"--{option.replace('_', '-')}", "is for several workers.", "Say how many with --workers N.")
        return options.storing(output_dir) if resume is None else options._at_run(resume)

    def storing(self, output_dir: str | Path) -> Self:
        """The options that leave run folders there, a folder or a URI."""
        folder, store = split_uri(str(output_dir))
        return replace(self, output_dir=folder, store=store)

    def resuming(self, run_dir: str | Path) -> Self:
        """The options that go on with a run, a folder or a URI, in the way in which it was begun."""
        return replace(self, recipe=None, overrides=(), run_id=None, log_model=False, register=None)._at_run(run_dir)

    def _at_run(self, run_dir: str | Path) -> Self:
        folder, uri = split_uri(str(run_dir).rstrip("/"))
        store = None
        if uri is not None:  # the storage is the URI's folder, the run its last part
            store, _, name = uri.rpartition("/")
            folder = split_uri(store)[0] / name
        return replace(self, resume=folder, output_dir=folder.parent, store=store)

    @property
    def all_overrides(self) -> list[str]:
        """What the options change in the spec."""
        named = [f"tracking.register_as={json.dumps(self.register)}"] if self.register is not None else []
        return [*self.overrides, *(["tracking.log_model=true"] if self.log_model else []), *named]

    @property
    def ray_address(self) -> str | None:
        """Of the Ray that is there already; None for one of our own."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address == "local" else address or None

    def arguments(self) -> list[str]:
        """The words of a command line that says what is not its default; both doors read them back as these very options."""
        typed = {"output_dir": str(self.output_dir) if self.store is None else self.store, "resume": self.resume}
        if self.resume is not None:
            typed = {"output_dir": "runs", "resume": self.resume if self.store is None else f"{self.store}/{self.resume.name}"}
        words = []
        for parameter in parameters(type(self)):
            value = typed.get(parameter.name, getattr(self, parameter.name))
            if str(value) != str(parameter.default):
                words += parameter.words(value)
        return words

    def command(self, program: str = "largebatch train") -> str:
        """What a person types to train with these options."""
        return f"{program} {shlex.join(self.arguments())}"


class Parameter(NamedTuple):
    """A field of an options model, as a command line has it."""

    name: str
    kind: Any
    """The field's type."""
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """Such as `--data-dir`."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    def words(self, value: Any) -> list[str]:
        """How a value is typed."""
        if self.option.is_argument:
            return [str(value)]
        if value is True:
            return [self.flag]
        return [word for item in (value if isinstance(value, tuple) else (value,)) for word in (self.flag, str(item))]


def parameters(model: type) -> list[Parameter]:
    """The fields of an options model that a command line has, in their order."""
    hints = get_type_hints(model, include_extras=True)
    annotated = [(item, get_args(hints[item.name])) for item in fields(model)]
    return [Parameter(item.name, kinds[0], item.default, kinds[1]) for item, kinds in annotated if kinds and isinstance(kinds[-1], Option)]


def split_uri(text: str) -> tuple[Path, str | None]:
    """The folder on this machine, and the URI of the storage behind it or None, for what a person gave. Raises: InputError for a URI that is none."""
    if "://" not in text:
        return Path(text), None
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path)), None
    if not parts.netloc:
        raise InputError("--output-dir", f"{text!r} names no bucket.", "Example: s3://bucket/runs.")
    scratch = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"largebatch-{scratch}", text


def read_workers(text: str) -> Workers:
    """`4`, or `2:8` for elastic. Raises: InputError."""
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()):
        raise InputError("--workers", f"{text!r} is not a number of workers.", "Give a number such as 4, or bounds such as 2:8.")
    workers = Workers(int(least), int(most) if colon else int(least))
    if workers.least < 1 or workers.least > workers.most:
        raise InputError("--workers", f"{text} are not bounds that rise from at least 1.", "Give a number such as 4, or bounds such as 2:8.")
    return workers


def most_workers(text: str | None) -> int:
    """How many workers a run may have; one without a text. Raises: InputError."""
    return read_workers(text).most if text else 1
