"""The command `largebatch`: what it prints, where, and with which exit code."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from command_line import largebatch, said
from small_runs import document
from typer.main import get_command
from typer.testing import Result

from largebatch.jobs.__main__ import main as engine
from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.run.run_folder import CHECKPOINTS, ENVIRONMENT, FIGURE, JOURNAL, PLAN, SPEC, SUMMARY
from largebatch.jobs.spec.read import recipe_paths
from largebatch.service.cli.main import COMMANDS, app, main

SMALL = document(
    name="small",
    dataset={"name": "digits"},
    model={"name": "mlp", "arguments": {"width": 16}},
    batch={"global_batch_size": 300, "micro_batch_size": 128},
    learning_rate={"base": 0.1},
    stop={"steps": 4, "target_accuracy": 0.05},
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("small.json").write_text(json.dumps(SMALL))


CUT_OFF = """
import os
import torch
from pathlib import Path


def at_once(num_classes):
    raise KeyboardInterrupt


def later(num_classes):
    def interrupt(*_):
        if list(Path().glob(os.environ["CUT_OFF_AT"])):
            raise KeyboardInterrupt

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
    model.register_forward_pre_hook(interrupt)
    return model
"""
"""Models of a person who presses Ctrl-C."""


def write_small(**parts: Any) -> None:
    """The recipe, of a model of one's own."""
    sys.modules.pop("cut_off", None)  # of another test's folder
    Path("cut_off.py").write_text(CUT_OFF)
    Path("small.json").write_text(json.dumps({**SMALL, **parts}))


def train(*arguments: str) -> Result:
    return largebatch("train", "small.json", "--device", "cpu", *arguments)


class TestJson:
    def test_one_object_and_nothing_else(self) -> None:
        done = train("--json")
        assert done.exit_code == 0
        assert done.stdout.count("\n") == 1
        summary = json.loads(done.stdout)
        assert list(summary) == list(RunSummary.model_fields)
        assert summary["outcome"] == "reached"
        assert 0 < summary["time_to_target_seconds"] <= summary["training_seconds"] <= summary["wall_seconds"]
        assert summary["steps"] == summary["steps_to_target"] == 4
        assert (summary["micro_batch_size"], summary["gradient_accumulation_steps"]) == (128, 3)
        run_dir = Path(summary["run_dir"])
        assert json.loads((run_dir / SUMMARY).read_text()) == summary
        assert {path.name for path in run_dir.iterdir()} >= {SPEC, PLAN, ENVIRONMENT, JOURNAL, SUMMARY, FIGURE, CHECKPOINTS}
        assert f"Run folder: {run_dir}" in done.stderr

    def test_a_miss_is_null(self) -> None:
        done = train("--json", "--set", "stop.target_accuracy=1.0")
        assert done.exit_code == 0
        summary = json.loads(done.stdout)
        assert (summary["outcome"], summary["time_to_target_seconds"], summary["steps_to_target"]) == ("missed", None, None)
        assert summary["score"] is not None

    def test_without_a_target_it_is_completed(self) -> None:
        summary = json.loads(train("--json", "--set", "stop.target_accuracy=null").stdout)
        assert (summary["outcome"], summary["target"], summary["time_to_target_seconds"]) == ("completed", None, None)

    def test_a_divergence_is_exit_code_3(self) -> None:
        done = train("--json", "--set", "learning_rate.base=1e30", "--set", "stop.target_accuracy=1.0")
        assert done.exit_code == 3
        summary = json.loads(done.stdout)
        assert (summary["outcome"], summary["time_to_target_seconds"]) == ("diverged", None)
        assert "NaN" not in done.stdout
        assert "Diverged: " in done.stderr


def test_it_says_its_version() -> None:
    result = largebatch("--version")
    assert (result.exit_code, result.stdout) == (0, f"largebatch {version('largebatch')}\n")


def test_the_table_names_what_matters() -> None:
    done = train()
    assert done.exit_code == 0
    for word in ("small", "reached", "300", "test acc.", "s to target", "noise scale"):
        assert word in done.stdout


def test_a_run_is_resumed() -> None:
    first = json.loads(train("--json", "--set", "stop.target_accuracy=null").stdout)
    done = largebatch("train", "--resume", first["run_dir"], "--set", "stop.steps=6", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["run_id"]) == (6, first["run_id"])
    assert summary["training_seconds"] > first["training_seconds"]


class TestPlan:
    def test_in_words(self) -> None:
        done = largebatch("plan", "small.json", "--device", "cpu")
        assert done.exit_code == 0
        # 300 = 128 + 128 + 44; 1437 = 4 * 300 + 237; 4 steps are 1,200 samples.
        for words in (
            "1,437 training samples",
            "300 samples per step = 2 x 128 + 44",
            "4 steps of 300 and one of 237, divided by its own 237",
            "4 steps, 1200 samples",
            "peak 0.1",
            "sgd, weight decay 0",
            "none in this model",
            "MiB: weights",
            "(1,210 parameters)",  # 64 * 16 + 16 + 16 * 10 + 10
        ):
            assert words in done.stdout, words

    def test_in_numbers(self) -> None:
        done = largebatch("plan", "small.json", "--json", "--device", "cpu")
        facts = json.loads(done.stdout)
        assert facts["micro_batches_of_the_first_step"] == [128, 128, 44]
        assert (facts["total_steps"], facts["total_samples"], facts["peak_learning_rate"]) == (4, 1200, 0.1)
        assert done.stdout.count("\n") == 1

    @pytest.mark.parametrize(
        "command", [["plan", "small.json"], ["train", "small.json", "--dry-run"], ["train", "small.json", "--dry-run", "--json"]]
    )
    def test_nothing_is_written(self, command: list[str], tmp_path: Path) -> None:
        before = set(tmp_path.rglob("*"))
        assert largebatch(*command, "--device", "cpu").exit_code == 0
        assert set(tmp_path.rglob("*")) == before

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses files even to root")
    def test_a_folder_that_cannot_be_written_will_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/proc/self")
        assert largebatch("plan", tmp_path / "small.json", "--device", "cpu").exit_code == 0
        with pytest.raises(InputError, match="cannot be written"):
            largebatch("train", tmp_path / "small.json", "--device", "cpu")

    def test_a_dry_run_is_the_plan(self) -> None:
        planned = largebatch("plan", "small.json", "--json", "--device", "cpu").stdout
        assert train("--dry-run", "--json").stdout == planned


@pytest.mark.parametrize("door", ["command", "engine"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_is_cut_off_says_how_to_go_on_where_it_can(
    saved: bool, door: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A further Ctrl-C leaves at once: here one that comes in the middle of a pass, once the run has a journal or a checkpoint."""
    monkeypatch.setenv("CUT_OFF_AT", f"runs/*/{CHECKPOINTS}/*.pt" if saved else f"runs/*/{JOURNAL}")
    write_small(model={"entry_point": "cut_off:later"}, checkpoint={"every_steps": 1})
    if door == "engine":
        assert engine(["small.json", "--device", "cpu"]) == 130
    else:
        monkeypatch.setattr(sys, "argv", ["largebatch", "train", "small.json", "--device", "cpu"])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "Interrupted." in err
    again = "python -m largebatch.jobs --resume" if door == "engine" else "largebatch train --resume"
    (run_dir,) = Path("runs").iterdir()
    assert (f"The last checkpoint is whole. Go on with: {again} {run_dir}" in err) is saved
    assert ("checkpoint" in err) is saved


@pytest.mark.parametrize("command", ["find-rate", "profile", "plan"])
def test_where_there_is_no_run_an_interrupt_speaks_of_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_small(model={"entry_point": "cut_off:at_once"})
    assert said(capsys, command, "small.json") == (130, "", "Interrupted.\n")


def test_the_engine_too_takes_the_output_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LARGEBATCH_OUTPUT_DIR", "elsewhere")
    assert engine(["small.json", "--device", "cpu"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["run_dir"]).parent == Path("elsewhere")


def test_recipes_are_listed() -> None:
    done = largebatch("recipes")
    assert done.exit_code == 0
    for name in recipe_paths():
        assert f"\n{name} " in done.stdout
    assert (" tokens " in done.stdout, " None " in done.stdout) == (True, False)


class TestCompare:
    @pytest.fixture
    def runs(self) -> list[str]:
        sizes = ("128", "300")
        return [json.loads(train("--json", "--set", f"batch.global_batch_size={size}", "--set", f"name=b{size}").stdout)["run_dir"] for size in sizes]

    def test_side_by_side(self, runs: list[str]) -> None:
        table = largebatch("compare", *runs).stdout
        assert table.index("b128") < table.index("b300")
        rows = json.loads(largebatch("compare", *runs, "--json").stdout)
        assert [(row["recipe"], row["global_batch_size"], row["optimizer"]) for row in rows] == [("b128", 128, "sgd"), ("b300", 300, "sgd")]
        assert [row["differs"] for row in rows] == [{}, {}], "batch and optimizer have columns of their own"
        page = largebatch("compare", *runs, "--figure", "deep/page.html")
        assert f"Figure: {Path('deep/page.html').resolve()}" in page.stdout
        assert Path("deep/page.html").is_file()

    def test_a_figure_of_another_kind(self, runs: list[str]) -> None:
        with pytest.raises(ValueError, match=r"--figure: page\.pdf ends in neither \.html nor \.png"):
            largebatch("compare", *runs, "--figure", "page.pdf")
        assert not Path("page.pdf").exists()

    def test_a_run_that_has_not_ended(self, runs: list[str]) -> None:
        (Path(runs[0]) / SUMMARY).unlink()
        with pytest.raises(ValueError, match=f"has not ended.*largebatch train --resume {runs[0]}"):
            largebatch("compare", runs[0])

    def test_all_that_lies_in_a_folder_of_runs(self, runs: list[str]) -> None:
        """As a shell makes of `runs/*`."""
        folder = Path(runs[0]).parent
        (folder / "mlflow-artifacts").mkdir(exist_ok=True)
        (folder / "mlflow.db").touch()
        (folder / "notes").mkdir()
        (Path(runs[0]) / SUMMARY).unlink()
        table = largebatch("compare", *map(str, folder.iterdir())).stdout
        assert "b300" in table
        assert f"Left out: {folder / 'notes'} holds no runs.\n" in table
        assert f"Left out: {runs[0]} is a run that has not ended. Go on with it: largebatch train --resume {runs[0]}\n" in table
        assert "mlflow" not in table
        with pytest.raises(ValueError, match="nowhere is not a folder"):
            largebatch("compare", *runs, "nowhere")
        with pytest.raises(ValueError, match="holds no runs"):
            largebatch("compare", folder / "notes")


def test_sync_of_no_run() -> None:
    with pytest.raises(ValueError, match=r"FOLDER: \. holds no runs"):
        largebatch("sync", ".")


def commands(command: Any, name: str = "largebatch") -> Iterator[tuple[str, Any]]:
    """Every command that a person can give, with its words."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    context = command.make_context(name, [], resilient_parsing=True)
    for word in command.commands:
        yield from commands(command.resolve_command(context, [word])[1], f"{name} {word}")


EVERY_COMMAND = dict(commands(get_command(app)))


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_command_has_help_with_an_example_that_it_takes(command: str) -> None:
    example = EVERY_COMMAND[command].epilog.removeprefix("Example: ")
    assert example.startswith(command)
    assert f"Example: {example}" in " ".join(largebatch(*command.split()[1:], "--help").stdout.split())
    EVERY_COMMAND[command].make_context(command, shlex.split(example.removeprefix(command)))  # raises for what it does not take


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_of_each_what_its_own_help_says_first(name: str) -> None:
    group: Any = get_command(app)
    _, command, _ = group.resolve_command(group.make_context("largebatch", [], resilient_parsing=True), [name])
    assert command.name == name
    assert group.commands[name].help == command.help.partition("\n\n")[0].replace("\n", " ")


def test_a_shell_completes_commands_and_their_options() -> None:
    group: Any = get_command(app)
    context = group.make_context("largebatch", [], resilient_parsing=True)
    assert [item.value for item in group.shell_complete(context, "s")] == ["study", "sharpness", "sweep", "scale", "sync", "submit", "serve"]
    _, train, _ = group.resolve_command(context, ["train"])
    own = train.make_context("train", [], parent=context, resilient_parsing=True)
    assert {"--data-dir", "--device", "--dry-run"} == {item.value for item in train.shell_complete(own, "--d")}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom largebatch.service.cli.main import app\nfrom typer.testing import CliRunner\n"
        "done = CliRunner().invoke(app, ['--help'])\nassert done.exit_code == 0 and 'train' in done.stdout\n"
        "print(sorted({'torch', 'pydantic', 'mlflow', 'ray', 'plotly', 'matplotlib', 'numpy', 'yaml', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [*COMMANDS, "remote submit", "remote edit", "jobs list", "token create", "db upgrade"])
def test_help_cuts_no_option_short(command: str) -> None:
    """On a terminal of eighty characters, where names that are cut cannot be typed."""
    shown = largebatch(*command.split(), "--help", COLUMNS="80", TERM="dumb").output
    assert "--help" in shown
    assert re.findall(r"--[\w-]+\u2026", shown) == []


@pytest.mark.parametrize(("num", "told"), [(1, "1 document;"), (2, "2 documents;")])
def test_tokens_are_told_in_words(num: int, told: str) -> None:
    """Bytes, and an end after each document."""
    names = [f"{number}.txt" for number in range(num)]
    for name in names:
        Path(name).write_text("x" * 99)
    words = " ".join(largebatch("tokens", *names, "--output", "text").output.split())
    assert f"text: {100 * num} tokens of a vocabulary of 258, in {told} the last {10 * num} tokens are the test set's." in words
