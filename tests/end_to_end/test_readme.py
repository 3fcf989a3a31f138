"""What README and docs show is so: commands are taken and run, recipes are those of the examples, links lead somewhere.

The quick commands run here, in this process; each page's from its first to its last, as a person types them, run in `make slow`.
"""

import glob
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from command_line import largebatch
from shown_commands import PAGES, parse, shown_in
from small_runs import ROOT, trained

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.job import prepare
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec

README = (ROOT / "README.md").read_text()
WALKED = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("quickstart.md", "train.md", "cluster.md"))]
"""Pages whose commands follow from one another."""
SLOW = re.compile(r"largebatch study|--workers [0-9]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a person works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path
    for module in ("data", "model", "my_code", "my_tasks"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    for line, _ in shown_in(page):
        if not line.startswith("cd "):
            parse(line)


def test_the_quick_commands_run_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once. The first run alone is mirrored to MLflow, whose import takes longer than all that is trained; the others are shortened."""
    lines = dict.fromkeys(line for page in WALKED for line, is_run in shown_in(page) if is_run and not SLOW.search(line))
    assert len(lines) >= 15
    num_trained = 0
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        words = [name for word in words for name in (glob.glob(word) if "*" in word else [word])]
        if program == "cd":
            monkeypatch.chdir(words[0])
            monkeypatch.syspath_prepend(Path.cwd())
            continue
        num_trained += words[0] == "train"
        shortened = ["--set", "tracking.enabled=false", "--set", "stop.epochs=2"] if words[0] == "train" and num_trained > 1 else []
        done = largebatch(*words, *shortened)
        assert done.exit_code == 0, line
    assert (folder / "my_project" / "runs" / "mlflow.db").is_file()
    assert Path("compare.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_as_a_person_types_them(page: Path, tmp_path: Path) -> None:
    script = "\n".join(["set -e", *(line for line, is_run in shown_in(page) if is_run)])
    run(script, tmp_path)
    for report in tmp_path.rglob("study-*/sweep/report/report.html"):
        assert "Soonest: batch" in report.read_text()


def run(script: str, folder: Path) -> None:
    """What a person types into a shell, in a folder of their own."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


EXAMPLES = ROOT / "docs" / "own-model"


@pytest.fixture
def examples(folder: Path) -> Path:
    """A copy of the folder of complete examples."""
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.yaml")):
        (folder / path.name).write_bytes(path.read_bytes())
    sys.path.append(str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "metric"), [("recipe", "accuracy"), ("text", "bits_per_byte"), ("pairs", "recall_at_1"), ("table", "r2"), ("focal", "accuracy")]
)
def test_the_complete_examples_train(name: str, metric: str, examples: Path) -> None:
    """The score they aim at is met; where that takes longer, or there is none, guessing is left behind."""
    few = {"text": ["stop.epochs=1", "stop.target.value=6.5", "model.arguments.depth=1"], "recipe": ["stop.epochs=4", "stop.target_accuracy=0.5"]}
    if name == "text":
        make_tokens(sorted((ROOT / "docs").glob("*.md"))[:4], examples / "data" / "text", byte_tokenizer())
    spec = read_spec(f"{name}.yaml", ["tracking.enabled=false", *few.get(name, [])])
    summary = trained(prepare(spec, torch.device("cpu"), examples / "data"), examples / "run")
    assert summary.headline.name == metric
    assert summary.outcome is Outcome.REACHED


def test_the_recipes_shown_are_those_of_the_examples() -> None:
    shown = re.findall(r"```yaml\n# (\w+\.yaml), .*?\n(.*?)```", README, re.S)
    assert {name for name, _ in shown} == {path.name for path in EXAMPLES.glob("*.yaml")} - {"recipe.yaml"}
    for name, text in shown:
        assert yaml.safe_load(text).items() <= yaml.safe_load((EXAMPLES / name).read_text()).items(), name


def test_readme_shows_the_recipe_that_init_writes() -> None:
    text = re.findall(r"```yaml\n(.*?)```", README, re.S)[0]
    written = yaml.safe_load((ROOT / "recipes" / "projects" / "classification" / "recipe.yaml").read_text())
    del written["name"], written["model"]["arguments"]
    assert yaml.safe_load(text) == written


def test_the_sweep_of_the_page_on_batch_sizes_is_taken(folder: Path) -> None:
    """Its file, beside a recipe that trains by a batch of 32, and its command."""
    ((name, text),) = re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", (ROOT / "docs" / "batch-size.md").read_text(), re.S)
    (folder / name).write_text(text)
    (folder / "recipe.yaml").write_text((ROOT / "recipes" / "digits-small-batch.yaml").read_text())
    done = largebatch("sweep", name, "--dry-run")
    assert done.exit_code == 0
    assert "batch 256, momentum 0.97: learning_rate.base" in done.output


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), [("text", "bits_per_byte"), ("pairs", "recall_at_1"), ("table", "r2"), ("focal", "accuracy")])
def test_a_study_of_each_answers_in_its_metric(name: str, metric: str, examples: Path) -> None:
    """By the command that README shows for one of them."""
    (command,) = re.findall(r"^ {4}(largebatch study pairs.*)$", README, re.M)
    make_tokens(sorted((ROOT / "docs").glob("*.md"))[:4], examples / "data" / "text", byte_tokenizer())
    less = " --set stop.target.value=4.5" if name == "text" else ""  # of few pages
    run(command.replace("pairs", name) + less, examples)
    (page,) = (examples / "runs").glob("study-*/sweep/report/report.html")
    assert "Soonest: batch" in page.read_text()
    assert metric in page.read_text()


def test_readme_is_short_and_its_make_targets_exist() -> None:
    assert len(README.splitlines()) <= 200
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ {4})make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            headings = [line.lstrip("# ") for line in target.read_text().splitlines() if line.startswith("#")]
            assert heading in [re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings], link


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")), ids=lambda page: page.stem)
def test_a_decision_is_a_page_of_three_parts(page: Path) -> None:
    text = page.read_text()
    assert all(f"**{part}" in text for part in ("Context", "Decision", "Consequences"))
    assert len(text.split()) <= 950


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("[a-z]*.md")), ids=lambda page: page.stem)
def test_a_result_is_one_table_its_conditions_and_at_most_five_notes(page: Path) -> None:
    text = page.read_text()
    tables = re.findall(r"^\|[ :|-]+\|$", text, re.M)
    assert (len(tables), "Conditions: " in text) in {(1, True), (0, True)}, tables
    assert len(re.findall(r"^\* ", text, re.M)) <= 5
