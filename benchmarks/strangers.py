"""Eleven models of three libraries, each trained by `largebatch train` as a stranger would: a recipe, no code.

Needs timm beside the `text` extra, CIFAR-10 in the data folder, and a folder of tokens there (`largebatch tokens FILES --output DATA/text`).
Runs that are in `--runs` already are not made again.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from _report import parser, publish

from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import RunSummary, StepRecord

STEPS, BATCH = 20, 128
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
IMAGES = {"dataset": {"name": "cifar10"}, "learning_rate": {"base": 0.001}}
RANDOM = {**IMAGES, "dataset": {"name": "synthetic", "arguments": {"num_train": 2560, "num_test": 256, "num_classes": 10, "shape": [3, 32, 32]}}}
"""For what takes minutes over all of CIFAR-10, which a run is scored on at its end."""
TOKENS = {"dataset": {"name": "tokens", "arguments": {"path": "text", "sequence_length": 64}}, "learning_rate": {"base": 0.002}}
SAID = "attention's dropout draws for the micro-batch: said, by the layer's name"
STRANGERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "gpt2": (
        {"name": "transformers:GPT2LMHeadModel", "arguments": {"n_layer": 2, "n_embd": 64, "n_head": 2}},
        {**TOKENS, "task": {"name": "language-modelling"}},
        f"special tokens beyond the vocabulary are none now, where the library warned; {SAID}",
    ),
    "bert": ({"name": "transformers:BertForMaskedLM", "arguments": TINY}, {**TOKENS, "task": {"name": "masked-language-modelling"}}, SAID),
    "vit": ({"name": "transformers:ViTForImageClassification", "arguments": {**TINY, "patch_size": 8}}, IMAGES, "nothing"),
    **{
        name: ({"name": name}, IMAGES if name.startswith("shuffle") else RANDOM, "nothing")
        for name in ("shufflenet_v2_x0_5", "efficientnet_b0", "densenet121", "swin_t")
    },
    "googlenet": (
        {"name": "googlenet", "arguments": {"aux_logits": False, "init_weights": True}},
        RANDOM,
        "without the arguments it is refused, with these two in the hint",
    ),
    **{
        name: ({"name": f"timm:{name}"}, IMAGES, "the name `timm:`; before, `entry_point: timm:create_model`")
        for name in ("test_efficientnet", "test_efficientnet_gn", "test_efficientnet_ln")
    },
}
"""By run: the model's line, the rest of its recipe, and what was needed."""


def main() -> None:
    """Train all, and tell of each."""
    asked = parser(__doc__, repetitions=1)
    asked.add_argument("--data-dir", type=Path, default=Path("data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/strangers"), help="where runs go")
    given = asked.parse_args()
    rows = [row(name, given.data_dir, given.runs) for name in STRANGERS]
    versions = ", ".join(f"{library} {version(library)}" for library in ("transformers", "torchvision", "timm"))
    notes = [
        f"{STEPS} steps of {BATCH} samples under AdamW, 32 x 32 images at 0.001, 64 bytes of text at 0.002; loss of the first and last step.",
        "timm's are its three smallest by parameters, of its 1,371 names, each built for ten classes, but for those that say they are large.",
        "`tests/equality/test_libraries.py` holds k micro-batches of such models to the gradient of one batch, within 2^-22 of it.",
        f"{versions}; one seed (0).",
    ]
    publish("Strangers: eleven models of three libraries, without code", rows, notes, given)


def row(name: str, data_dir: Path, runs: Path) -> dict[str, str]:
    """A line of the table, of a run that is made where it is not there."""
    model, rest, needed = STRANGERS[name]
    run = runs / name
    if not (run / "summary.json").exists():
        train({"model": model, **rest, "batch": {"global_batch_size": BATCH}, "optimizer": {"name": "adamw"}}, name, data_dir, runs)
    summary = RunSummary.model_validate_json((run / "summary.json").read_text())
    losses = [record.loss for record in read_records(run) if isinstance(record, StepRecord)]
    assert len(losses) == STEPS
    metric = json.loads((run / "plan.json").read_text())["headline"]["name"]
    line = yaml.safe_dump({"model": model}, default_flow_style=True, width=1000, sort_keys=False).strip()[1:-1]
    return {
        "recipe line": f"`{line}`",
        "parameters": f"{num_parameters(run):,}",
        "task": rest.get("task", {}).get("name", "classification"),
        "data": {"cifar10": "CIFAR-10", "tokens": "two texts, bytes", "synthetic": "random images"}[rest["dataset"]["name"]],
        "loss": f"{losses[0]:.3f} ... {losses[-1]:.3f}",
        "test score": f"{metric} {summary.score:.3f}",
        "needed": needed,
    }


def train(recipe: dict[str, Any], name: str, data_dir: Path, runs: Path) -> None:
    """Run the command, as a person would."""
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**recipe, "stop": {"steps": STEPS}, "tracking": {"enabled": False}}, sort_keys=False))
    command = [Path(sys.executable).with_name("largebatch"), "train", path, "--data-dir", data_dir, "--output-dir", runs, "--run-id", name]
    subprocess.run(command, check=True)


def num_parameters(run: Path) -> int:
    """Weights of a run's newest checkpoint that were trained."""
    checkpoint = torch.load(next((run / "checkpoints").glob("step-*")), weights_only=False)
    return sum(state["exp_avg"].numel() for state in checkpoint["state"]["optimizer"]["state"].values())


if __name__ == "__main__":
    main()
