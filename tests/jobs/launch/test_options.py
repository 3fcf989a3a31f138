"""The options of a training command: one model, which both doors read and which writes what both read back."""

import shlex
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from largebatch.jobs.__main__ import main as engine
from largebatch.jobs.__main__ import read_arguments
from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import TrainOptions, Workers, read_workers, split_uri
from largebatch.jobs.launch.stored_runs import going_on
from largebatch.jobs.run.run_folder import SPEC
from largebatch.service.cli.typer_parameters import spread


def through_typer(words: list[str]) -> TrainOptions:
    app, options_read = typer.Typer(), []

    @app.command()
    @spread
    def command(options: TrainOptions) -> None:
        options_read.append(options)

    CliRunner().invoke(app, words, catch_exceptions=False)
    (options,) = options_read
    return options


DOORS = {"largebatch": through_typer, "python-m-jobs": read_arguments}
NAME = st.from_regex(r"[a-z0-9][a-z0-9._ =-]{0,8}", fullmatch=True)
SHARE = st.one_of(st.none(), st.floats(0, 64))
ADDRESS = st.one_of(NAME, NAME.map("/shared/{}".format), NAME.map("s3://bucket/{}".format))
ON_WORKERS = st.fixed_dictionaries(
    {
        "workers": st.sampled_from(["1", "4", "2:8"]),
        "gpus_per_worker": SHARE,
        "cpus_per_worker": SHARE,
        "address": st.sampled_from([None, "10.0.0.1:6379"]),
    }
)
TYPED = st.builds(
    lambda on_workers, **others: {**others, **on_workers},
    recipe=st.one_of(st.none(), NAME, st.just("-")),
    overrides=st.lists(NAME, max_size=2),
    data_dir=NAME.map(Path),
    output_dir=ADDRESS,
    device=st.sampled_from(["auto", "cpu"]),
    resume=st.one_of(st.none(), ADDRESS.map("{}/one".format)),
    run_id=st.one_of(st.none(), NAME),
    on_workers=st.one_of(st.just({}), ON_WORKERS),
    max_failures=st.integers(0, 9),
    worker_logs=st.booleans(),
    log_model=st.booleans(),
    register=st.one_of(st.none(), NAME),
)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@settings(deadline=None, max_examples=40)
@given(typed=TYPED)
def test_what_the_options_write_a_door_reads_back(door: Any, typed: dict[str, Any]) -> None:
    options = TrainOptions.read(**typed)
    assert door(options.arguments()) == options
    assert shlex.split(options.command("largebatch train")) == ["largebatch", "train", *options.arguments()]


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_what_is_not_typed_comes_from_the_environment(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert door([]) == TrainOptions()
    monkeypatch.setenv("LARGEBATCH_OUTPUT_DIR", "/shared/runs")
    monkeypatch.setenv("LARGEBATCH_DATA_DIR", "")
    assert door([]) == TrainOptions(output_dir=Path("/shared/runs"))
    assert door(["--output-dir", "mine"]) == TrainOptions(output_dir=Path("mine"))


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({}, "largebatch train --resume 'my runs/one'"),
        ({"recipe": "digits-lamb", "overrides": ["seed=2"], "output_dir": "my runs", "run_id": "one"}, "largebatch train --resume 'my runs/one'"),
        ({"data_dir": Path("/data"), "device": "cpu"}, "largebatch train --resume 'my runs/one' --data-dir /data --device cpu"),
        (
            {"workers": "2:4", "cpus_per_worker": 0.5, "address": "10.0.0.1:6379", "max_failures": 3},
            "largebatch train --resume 'my runs/one' --workers 2:4 --cpus-per-worker 0.5 --address 10.0.0.1:6379 --max-failures 3",
        ),
    ],
)
def test_a_run_goes_on_in_the_way_in_which_it_was_begun(given: dict[str, Any], command: str) -> None:
    assert TrainOptions.read(**given).resuming("my runs/one/").command() == command


def test_addresses(tmp_path: Path) -> None:
    assert split_uri("runs") == (Path("runs"), None)
    assert split_uri(f"file://{tmp_path}/my%20runs") == (tmp_path / "my runs", None)
    copies, store = split_uri("s3://bucket/runs")
    assert (store, copies.parent) == ("s3://bucket/runs", Path(tempfile.gettempdir()))
    assert copies != split_uri("s3://bucket/other")[0]
    resumed = TrainOptions.read(resume="s3://bucket/runs/one/")
    assert (resumed.store, resumed.output_dir, resumed.resume) == ("s3://bucket/runs", copies, copies / "one")
    with pytest.raises(InputError, match="names no bucket"):
        split_uri("s3:///runs")


def test_workers() -> None:
    assert (read_workers("2:8"), read_workers("4")) == (Workers(2, 8), Workers(4, 4))


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "few"], "--workers: 'few' is not a number of workers."),
        (["--workers", "4:2"], "--workers: 4:2 are not bounds that rise"),
        (["--workers", "0"], "--workers: 0 are not bounds that rise from at least 1"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker: is for several workers. Say how many with --workers N."),
        (["--address", "auto"], "--address: is for several workers."),
        (["--output-dir", "s3:///x"], "--output-dir: 's3:///x' names no bucket."),
    ],
)
def test_what_cannot_be_read_is_refused_in_the_same_words(door: Any, words: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        door(words)


def test_numbers_have_their_bounds() -> None:
    with pytest.raises(InputError, match="--max-failures: -1 is below 0"):
        read_arguments(["--max-failures", "-1"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max-failures", "few"], "--max-failures: invalid int value: 'few'."),
        (["--workers"], "--workers: expected one argument."),
        (["--xyzzy"], "unrecognized arguments: --xyzzy."),
    ],
)
def test_a_command_line_that_is_none_ends_in_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine(words) == 2
    told = f"InputError: {sentence} `python -m largebatch.jobs --help` says what it takes.\n"
    assert capsys.readouterr() == ("", told)


def test_a_run_that_an_id_has_begun_goes_on(tmp_path: Path) -> None:
    options = TrainOptions(output_dir=tmp_path, run_id="one")
    assert going_on(options) == options
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / SPEC).touch()
    assert going_on(options).resume == tmp_path / "one"
