"""The recipes that docs/tasks.md shows are read; its classes are what `own_tasks` is made of."""

import re
from pathlib import Path

import yaml

from largebatch.jobs.spec.read import build_spec

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "tasks.md").read_text()


def test_its_recipes_are_read() -> None:
    usual = {
        "dataset": {"name": "digits"}, "model": {"name": "mlp"}, "batch": {"global_batch_size": 8}, "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.1}, "stop": {"steps": 1},
    }  # fmt: skip
    lines = [line for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines() if line.strip()]
    for line in lines:
        build_spec({**usual, **yaml.safe_load(line)})
    assert len(lines) >= 7
