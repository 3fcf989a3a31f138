"""Code that travels: what the recipe names goes along whatever it is called; what is left out is what git ignores or is too large, and is said."""

import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from zips import zipped

from largebatch.jobs.errors import FaultError, SpecError
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.backends.own_code import own_code
from largebatch.service.backends.ray_jobs import RayJobs, Submission

FUNCTION = "def make():\n    return None\n"


def write(folder: Path, *paths: str, text: str = FUNCTION) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def own_model(entry_point: str) -> TrainSpec:
    return build_spec(
        {"dataset": {"name": "digits"}, "model": {"entry_point": entry_point}, "batch": {"global_batch_size": 8},
         "optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.1}, "stop": {"steps": 3}}
    )  # fmt: skip


def sent(folder: Path, entry_point: str, monkeypatch: pytest.MonkeyPatch, bundle: bytes | None = None) -> set[str]:
    """The files that Ray was handed beside our own package, for a recipe that names one model."""
    handed: set[str] = set()

    def submit_job(*, runtime_env: dict[str, Any], **_: Any) -> None:
        parcel = Path(runtime_env["working_dir"])
        handed.update(path.relative_to(parcel).as_posix() for path in parcel.rglob("*") if path.is_file())

    client: Any = SimpleNamespace(get_version=lambda: "4", submit_job=submit_job)
    monkeypatch.chdir(folder)
    RayJobs("http://127.0.0.1:8265", client).send(
        Submission("run", own_model(entry_point), [], {}, bundle=bundle), "run.1", ["-m", "largebatch.jobs"]
    )
    return {path for path in handed if not path.startswith("largebatch/")}


def test_a_bundle_goes_whole_and_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mine.py", "other.py")
    bundle = zipped(("mine.py", b"x = 1"), ("tests/cases.txt", b""))
    assert sent(tmp_path, "mine:make", monkeypatch, bundle) == {"mine.py", "tests/cases.txt"}


def begin_git(folder: Path, ignored: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text(ignored)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)


def test_folders_are_left_out_by_name_at_the_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    write(tmp_path, "mylib/__init__.py", "mylib/data/rings.py", "mylib/tests/deep/cases.py", "mylib/build/make.py", "other/dist/help.py")
    write(tmp_path, "data/download.py", "tests/test_mine.py", ".venv/lib/thing.py", "mylib/__pycache__/x.py")
    write(tmp_path, "mylib/labels.json", "mylib/data/names.txt", "README.md", "data/images.bin")
    assert sent(tmp_path, "mylib.data.rings:make", monkeypatch) == {
        "mylib/__init__.py", "mylib/data/rings.py", "mylib/tests/deep/cases.py", "mylib/build/make.py", "other/dist/help.py",
        "mylib/labels.json", "mylib/data/names.txt", "README.md",
    }  # fmt: skip
    assert capsys.readouterr().err == "Not sent along: data (by its name), tests (by its name).\n"


def test_what_train_finds_beside_the_recipe_goes_along_or_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A module that reads a file beside it, and a package that nobody names with one of its own."""
    write(tmp_path, "net.py", "vocab.json", "other/__init__.py", "other/words.txt", "other/tables/more.csv")
    whole = {"net.py", "vocab.json", "other/__init__.py", "other/words.txt", "other/tables/more.csv"}
    assert sent(tmp_path, "net:make", monkeypatch) == whole
    assert capsys.readouterr().err == ""
    write(tmp_path, "pictures/one.svg", "pictures/deep/two.svg", "empty/.hidden", "odd:name.txt", "VOCAB.json")
    write(tmp_path, "large.txt", text="x" * (2 << 20))
    assert sent(tmp_path, "net:make", monkeypatch) == {*whole, "VOCAB.json"} - {"vocab.json"}
    said = capsys.readouterr().err
    for named in ("pictures (holds no Python)", "large.txt (2.0 MiB)", "'odd:name.txt' (for its name)", "'vocab.json' (for its name)"):
        assert named in said
    assert said.endswith("go along from beside it: from this folder itself, and from folders with Python in them.\n")
    assert "empty" not in said


def test_what_is_beside_the_recipe_and_ignored_stays_and_many_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    begin_git(tmp_path, "secret.txt\n")
    write(tmp_path, "net.py", "secret.txt", "words.txt", "many/load.py", *(f"many/{number:04}.txt" for number in range(1100)))
    files = sent(tmp_path, "net:make", monkeypatch)
    assert {"net.py", "many/load.py", "many/0000.txt"} <= files
    assert "secret.txt" not in files
    assert len(files) == 1000, "no more than a bundle takes"
    assert "secret.txt (git ignores it), more of many (beyond 20 MiB or 1,000 files)" in capsys.readouterr().err


def test_what_may_be_a_secret_stays_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").touch()
    (tmp_path / "vocab.json").write_text("{}")
    secrets = ("server.PEM", "credentials.json", "id_ed25519", "secrets.yaml", "secret")
    for name in secrets:
        (tmp_path / name).write_text("key")
    code = own_code(tmp_path, {"net"})
    assert {path.name for path in code.files} == {"net.py", "vocab.json"}
    assert sorted(code.left_out) == sorted(f"{name} (may be a secret)" for name in secrets)


def test_what_the_recipe_names_goes_along_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "runs/models.py", "dist/__init__.py", "build/other.py")
    assert sent(tmp_path, "runs.models:make", monkeypatch) == {"runs/models.py", "dist/__init__.py"}
    begin_git(tmp_path, "*\n!build\n!build/*\n!.gitignore\n")
    assert sent(tmp_path, "runs.models:make", monkeypatch) == {"runs/models.py", "build/other.py"}


def test_git_says_what_is_left_out_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    begin_git(tmp_path, "data/\noutputs/\nscratch.py\nforced/\n")
    write(tmp_path, "mylib/data/rings.py", "data/big.py", "outputs/run.py", "scratch.py", "tests/helpers.py", "forced/kept.py")
    subprocess.run(["git", "-C", str(tmp_path), "add", "-f", "forced/kept.py"], check=True)
    taken = {"mylib/data/rings.py", "tests/helpers.py", "forced/kept.py"}
    assert sent(tmp_path, "mylib.data.rings:make", monkeypatch) == taken
    assert capsys.readouterr().err == "Not sent along: data (git ignores it), outputs (git ignores it), scratch.py (git ignores it).\n"


def test_a_folder_that_its_repository_ignores_whole_is_judged_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_git(tmp_path, "work/\n")
    write(tmp_path / "work", "net.py", "helpers/more.py", "data/load.py")
    assert sent(tmp_path / "work", "net:make", monkeypatch) == {"net.py", "helpers/more.py"}


def test_what_is_large_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    write(tmp_path, "net.py", "mylib/__init__.py", "mylib/labels.txt", "small.py")
    write(tmp_path, "mylib/weights.bin", text="x" * (3 * 2**20))
    write(tmp_path, *(f"env/lib/module_{number}.py" for number in range(4)), text="#" * (6 * 2**20))
    assert sent(tmp_path, "mylib:make", monkeypatch) == {"net.py", "mylib/__init__.py", "mylib/labels.txt", "small.py"}
    assert capsys.readouterr().err == "Not sent along: env (beyond 20 MiB), mylib/weights.bin (3.0 MiB).\n"
    with pytest.raises(SpecError, match="more than 20 MiB of Python files"):
        sent(tmp_path, "env.lib.module_1:make", monkeypatch)


def test_many_names_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    begin_git(tmp_path, "out_*\n")
    write(tmp_path, "net.py", *(f"out_{number}/a.py" for number in range(9)))
    assert sent(tmp_path, "net:make", monkeypatch) == {"net.py"}
    assert capsys.readouterr().err.endswith("out_5 (git ignores it) and 3 more.\n")


class Busy:
    """Ray's side of submits: the first ones fail, as where two meet in one temporary folder."""

    def __init__(self, num_failures: int, *, takes_it_all_the_same: bool = False) -> None:
        self.num_failures, self.takes_it_all_the_same = num_failures, takes_it_all_the_same
        self.num_submits, self.taken = 0, list[Any]()

    def get_version(self) -> str:
        return "4"

    def list_jobs(self) -> list[Any]:
        return self.taken

    def submit_job(self, *, submission_id: str, **_: Any) -> None:
        self.num_submits += 1
        fails = self.num_submits <= self.num_failures
        if not fails or self.takes_it_all_the_same:
            self.taken.append(SimpleNamespace(submission_id=submission_id))
        if fails:
            raise RuntimeError("Request failed with status code 500")


@pytest.mark.parametrize(
    ("client", "num_submits", "is_taken"), [(Busy(1), 2, True), (Busy(1, takes_it_all_the_same=True), 1, True), (Busy(2), 2, False)]
)
def test_a_submit_that_ray_fails_at_is_tried_once_more(client: Any, num_submits: int, is_taken: bool) -> None:
    submission = Submission("run", own_model("net:make"), [], {}, ships_code=False)
    with nullcontext() if is_taken else pytest.raises(FaultError, match="refuses the job"):
        RayJobs("http://127.0.0.1:8265", client).send(submission, "run.1", ["-m", "largebatch.jobs"])
    assert (client.num_submits, [job.submission_id for job in client.taken]) == (num_submits, ["run.1"] if is_taken else [])
