"""Run by `pytest`: the model takes the data, and a short run of the recipe learns."""

from pathlib import Path

import yaml

import largebatch

from data import load
from model import build

RECIPE = yaml.safe_load(Path(__file__).with_name("recipe.yaml").read_text())


def test_the_model_takes_the_data() -> None:
    """A logit for each token that may follow."""
    tokens, *_ = load()[0][:4]
    assert build(vocabulary_size=256)(tokens).shape == (4, 32, 256)


def test_a_short_run_learns(tmp_path: Path) -> None:
    """The loss of its last steps is below that of its first."""
    summary = largebatch.train({**RECIPE, "stop": {"steps": 60}, "tracking": {"enabled": False}}, output_dir=tmp_path)
    losses = [step.loss for step in largebatch.load_run(summary.run_dir).steps]
    assert sum(losses[-10:]) < sum(losses[:10])
