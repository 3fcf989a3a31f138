"""What an installation is: one package of one name, whole, beside which a person's own packages may have any other name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT

LINKS = ("jobs", "tuning", "service", "recipes")
NO_CACHES = shutil.ignore_patterns("__pycache__", "*.pyc")
HERS = {
    "jobs/__init__.py": "WIDTH = 16\n",
    "service/__init__.py": "",
    "service/models.py": "import torch\nfrom jobs import WIDTH\n\n\ndef build(num_classes):\n    return torch.nn.Sequential("
    "torch.nn.Flatten(), torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, num_classes))\n",
    "models/__init__.py": "from service.models import build\n",
    "tuning.py": "NUM = 40\n",
    "data/__init__.py": "",
    "data/sets.py": "import torch\nimport tuning\n\n\ndef load():\n    labels = torch.arange(tuning.NUM) % 2\n"
    "    one = torch.utils.data.TensorDataset(torch.randn(tuning.NUM, 4, generator=torch.Generator().manual_seed(0)), labels)\n    return one, one\n",
    "recipe.yaml": "dataset: {entry_point: 'data.sets:load'}\nmodel: {entry_point: 'models:build'}\nbatch: {global_batch_size: 8}\n"
    "optimizer: {name: sgd}\nlearning_rate: {base: 0.1}\nstop: {steps: 2}\ntracking: {enabled: false}\n",
}


@pytest.fixture
def her_folder(tmp_path: Path) -> Path:
    """A folder whose packages have the names of ours, and a random.py besides."""
    for name, text in HERS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "random.py").write_text("raise SystemExit('hers was taken for Python\\'s')\n")
    return tmp_path


def run(*command: object, cwd: Path, python_path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(python_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for building leaves files behind."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("largebatch", *LINKS):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=NO_CACHES)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a wheel of this checkout was installed."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, checkout], check=True, capture_output=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", target, *wheels.iterdir()], check=True)
    return target


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_a_wheel_holds_one_package_and_all_of_it(installed: Path) -> None:
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"largebatch", "bin"}
    for name in LINKS:
        assert files(installed / "largebatch" / name) == files(ROOT / name)


@pytest.mark.parametrize("command", [["-m", "largebatch", "--version"], ["-m", "largebatch", "recipes"], ["-m", "largebatch.jobs", "--help"]])
def test_an_installation_answers_wherever_a_person_works(command: list[str], installed: Path, her_folder: Path) -> None:
    assert run(sys.executable, *command, cwd=her_folder, python_path=installed)
    code = "import largebatch, sys; print(largebatch.__file__, *{'torch', 'pydantic', 'numpy', 'typing'} & set(sys.modules))"
    assert run(sys.executable, "-P", "-S", "-c", code, cwd=her_folder, python_path=installed).strip() == str(installed / "largebatch" / "__init__.py")


SLOW_DOOR = pytest.param(["-m", "largebatch", "plan"], marks=pytest.mark.slow)


@pytest.mark.parametrize("door", [["bin/largebatch", "plan"], SLOW_DOOR, ["-m", "largebatch.jobs"]], ids=" ".join)
def test_a_persons_packages_are_hers_whatever_they_are_called(door: list[str], installed: Path, her_folder: Path) -> None:
    words = [installed / door[0], *door[1:]] if door[0].startswith("bin") else door
    assert run(sys.executable, *words, "recipe.yaml", "--device", "cpu", cwd=her_folder, python_path=installed)


def test_an_editable_installation_brings_one_name(checkout: Path, tmp_path: Path, her_folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    prefix = tmp_path / "prefix"
    editable = [*pip, "install", "--no-deps", "--no-build-isolation", "--no-warn-script-location", "--ignore-installed"]
    subprocess.run([*editable, "--prefix", prefix, "--editable", checkout], check=True, capture_output=True)
    (folder,) = prefix.glob("lib*/python*/site-packages")
    code = (
        f"import site; site.addsitedir({str(folder)!r}); import largebatch.jobs.spec.read as read, importlib.util as found\n"
        "print(read.__file__, *[name for name in ('jobs', 'tuning', 'service', 'recipes') if found.find_spec(name)])"
    )
    outside = tmp_path / "outside"
    outside.mkdir()
    # Without this interpreter's own installations, of which largebatch is one; what it imports besides comes behind.
    libraries = [path for path in sys.path if "site-packages" in path]
    code = code.replace("; import largebatch", f"; import sys; sys.path += {libraries!r}; import largebatch", 1)
    assert run(sys.executable, "-P", "-S", "-c", code, cwd=outside, python_path=outside).split() == [str(checkout / "largebatch/jobs/spec/read.py")]


def test_a_checkout_without_its_links_says_so(tmp_path: Path) -> None:
    """As Windows and some archives leave them: files that hold a link's text."""
    shutil.copytree(ROOT / "largebatch", tmp_path / "largebatch", ignore=lambda folder, names: [*LINKS, "__pycache__"])
    for name in LINKS:
        (tmp_path / "largebatch" / name).write_text(f"../{name}")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import largebatch"], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "lacks its links to jobs, tuning, service and recipes" in done.stderr.splitlines()[-1]
