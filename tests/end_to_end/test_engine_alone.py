"""The engine trains with torch, numpy and pydantic alone: everything else is refused at import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import ROOT

REFUSED = ("ray", "mlflow", "fastapi", "sklearn", "torchvision", "typer", "rich", "yaml", "plotly", "matplotlib", "uvicorn", "sqlalchemy")
DOCUMENT: dict[str, Any] = {
    "name": "alone",
    "dataset": {
        "name": "synthetic",
        "arguments": {"num_train": 96, "num_test": 24, "num_classes": 4, "shape": [1, 8, 8]},
        "augment": {"horizontal_flip": "random", "translate": 1},
    },
    "model": {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}},
    "batch": {"global_batch_size": 32, "micro_batch_size": 16},
    "batch_norm": {"span": 16},
    "optimizer": {"name": "lars"},
    "learning_rate": {"base": 0.5},
    "stop": {"steps": 6},
}
ALONE = """
import sys

REFUSED = {refused!r}

class Without:
    \"\"\"A finder that does not know the refused packages: importing one fails, looking for one finds nothing.\"\"\"

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in REFUSED else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from largebatch.jobs.__main__ import main

code = main({arguments!r})
assert not set(REFUSED) & {{name.partition(".")[0] for name in sys.modules}}
# What a step of torch can bring along unasked: its compiler and sympy, a third of a second of the first step and more.
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
sys.exit(code)
"""


def alone(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m largebatch.jobs` where the refused packages are not installed, as far as Python can tell."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE.format(refused=REFUSED, arguments=[*arguments, "--device", "cpu"])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_json_spec_is_trained_and_resumed_with_the_engines_own_dependencies(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(DOCUMENT))
    first = alone(str(spec), "--output-dir", str(tmp_path / "runs"))
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert (summary["outcome"], summary["steps"], summary["mlflow_run_id"]) == ("completed", 6, None)
    assert [line for line in first.stderr.splitlines() if "MLflow" in line] == ["MLflow is not installed: this run is kept in its folder alone."]
    assert not (Path(summary["run_dir"]) / "mlflow.json").exists()

    again = alone("--resume", summary["run_dir"])
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["parameters_sha256"] == summary["parameters_sha256"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dataset": {"name": "digits"}}, "DataError: dataset.name: digits come with scikit-learn, which is not installed. pip install scikit-learn"),
        ({"model": {"name": "resnet18"}}, "SpecError: model.name: 'resnet18' is not one of our models, and torchvision is not installed."),
    ],
)
def test_what_needs_more_says_what(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({**DOCUMENT, **change}))
    refused = alone(str(spec), "--output-dir", str(tmp_path / "runs"))
    assert refused.returncode == 2
    assert refused.stderr.startswith(sentence)
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
