"""The engine trains with torch, numpy and pydantic alone: everything else is refused at import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
import json, os, sys

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

for number, arguments in enumerate(json.loads({commands!r})):
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        os.dup2(os.open(f"{{number}}.{{name}}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    with open(f"{{number}}.code", "w") as file:
        file.write(str(main(arguments)))
assert not set(REFUSED) & {{name.partition(".")[0] for name in sys.modules}}
# What a step of torch can bring along unasked: its compiler and sympy, a third of a second of the first step and more.
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
"""


class Done(NamedTuple):
    """What became of one command."""

    code: int
    out: str
    err: str


def alone(folder: Path, commands: list[list[str]]) -> list[Done]:
    """`python -m largebatch.jobs`, once for each command, where the refused packages are not installed, as far as Python can tell."""
    told = json.dumps([[*arguments, "--device", "cpu"] for arguments in commands])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE.format(refused=REFUSED, commands=told)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    ended = [
        Done(int((folder / f"{n}.code").read_text()), *((folder / f"{n}.{name}").read_text() for name in ("out", "err")))
        for n in range(len(commands))
    ]
    assert done.returncode == 0, (done.stderr, ended)
    return ended


LACKING = [
    ({"dataset": {"name": "digits"}}, "DataError: dataset.name: digits come with scikit-learn, which is not installed. pip install scikit-learn"),
    ({"model": {"name": "resnet18"}}, "SpecError: model.name: 'resnet18' is not one of our models, and torchvision is not installed."),
]


def test_a_json_spec_is_trained_and_resumed_with_the_engines_own_dependencies_and_what_needs_more_says_what(tmp_path: Path) -> None:
    """One process for all: importing torch takes longer than what they do."""
    specs = [tmp_path / f"spec-{number}.json" for number in range(1 + len(LACKING))]
    for spec, change in zip(specs, ({}, *(change for change, _ in LACKING)), strict=True):
        spec.write_text(json.dumps({**DOCUMENT, **change}))
    trained = [str(specs[0]), "--output-dir", str(tmp_path / "runs"), "--run-id", "run"]
    lacking = [[str(spec), "--output-dir", str(tmp_path / "none")] for spec in specs[1:]]
    first, again, *refused = alone(tmp_path, [trained, ["--resume", str(tmp_path / "runs" / "run")], *lacking])
    assert first.code == 0, first.err
    summary = json.loads(first.out)
    assert (summary["outcome"], summary["steps"], summary["mlflow_run_id"]) == ("completed", 6, None)
    assert [line for line in first.err.splitlines() if "MLflow" in line] == ["MLflow is not installed: this run is kept in its folder alone."]
    assert not (Path(summary["run_dir"]) / "mlflow.json").exists()
    assert again.code == 0, again.err
    assert json.loads(again.out)["parameters_sha256"] == summary["parameters_sha256"]

    for done, (_, sentence) in zip(refused, LACKING, strict=True):
        assert done.code == 2
        assert done.err.startswith(sentence)
        assert done.err.count("\n") == 1
    assert not (tmp_path / "none").exists()
