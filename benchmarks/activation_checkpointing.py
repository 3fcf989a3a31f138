"""Memory and time of a step with `model.activation_checkpointing` against one that keeps everything; each run in a fresh process."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import parser, publish, ratios, spread

NUM_STEPS = 4
IMAGES = {"name": "synthetic", "arguments": {"num_train": 256, "num_test": 8, "num_classes": 10, "shape": [3, 64, 64]}}
TOKENS = {"name": "tokens", "arguments": {"path": "tokens", "sequence_length": 128}}
MODELS: dict[str, dict[str, Any]] = {
    "transformer, 12 blocks of width 128, 128 tokens": {
        "task": {"name": "language-modelling"},
        "dataset": TOKENS,
        "model": {"name": "transformer", "arguments": {"width": 128, "depth": 12}},
    },
    "ResNet-50, 64 x 64": {"dataset": IMAGES, "model": {"name": "resnet50"}},
}
MICRO_BATCH = 32


def _train(model: str, is_on: bool) -> None:
    """In a fresh process: train, print the most memory that it took beyond what importing took, and processor seconds of a step."""
    import torch

    from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
    from largebatch.jobs.job import prepare, run_job
    from largebatch.jobs.run.listener import Listener
    from largebatch.jobs.run.records import Record, StepRecord
    from largebatch.jobs.spec.read import build_spec

    document = {
        **MODELS[model],
        "batch": {"global_batch_size": MICRO_BATCH, "micro_batch_size": MICRO_BATCH},
        "batch_norm": {"span": MICRO_BATCH},
        "gradient": {"noise_every_steps": 0},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.001},
        "stop": {"steps": NUM_STEPS},
        "tracking": {"enabled": False},
    }
    document["model"] = {**document["model"], "activation_checkpointing": is_on}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "a.txt")
        text.write_text("".join(str(number) for number in range(20_000)))
        make_tokens([text], Path(folder, "tokens"), byte_tokenizer(), test_fraction=0.02)
        before = _resident_bytes("VmRSS")
        job = prepare(build_spec(document), torch.device("cpu"), Path(folder))
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        Path(folder, "run", "checkpoints").mkdir(parents=True)
        at_s, peaks = list[float](), list[int]()

        def note(record: Record) -> None:
            if isinstance(record, StepRecord):
                at_s.append(time.process_time())
                peaks.append(_resident_bytes("VmHWM"))

        run_job(job, Path(folder, "run"), Listener(on_record=note))
    print(json.dumps([peaks[-1] - before, (at_s[-1] - at_s[0]) / (NUM_STEPS - 1)]))


def _resident_bytes(kind: str) -> int:
    """Of this process. Args: kind: VmRSS, now; VmHWM, the most so far (Linux)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return int(line.split()[1]) * 1024


def _measured(model: str, is_on: bool) -> Callable[[], list[float]]:
    command = [sys.executable, __file__, "--worker", model, *(["--on"] if is_on else [])]
    return lambda: [float(value) for value in json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)]


def main() -> None:
    arguments = parser(__doc__, repetitions=3)
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    arguments.add_argument("--on", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        _train(given.worker, given.on)
        return
    rows = []
    for model in MODELS:
        pairs = [[_measured(model, is_on)() for is_on in (False, True)] for _ in range(given.repetitions)]
        (memory, seconds), (less, longer) = ([list(values) for values in zip(*side, strict=True)] for side in zip(*pairs, strict=True))
        rows.append(
            {
                "model": model,
                "kept, MiB": spread([value / 2**20 for value in memory], ".0f"),
                "run again, MiB": spread([value / 2**20 for value in less], ".0f"),
                "memory ratio": spread(ratios(less, memory), ".2f"),
                "time ratio": spread(ratios(longer, seconds), ".2f"),
            }
        )
    notes = [
        f"Micro-batches of {MICRO_BATCH}, float32, SGD, {NUM_STEPS} steps in a fresh process, seed 0."
        " Time: processor seconds of a step, which others on the machine touch little.",
        "Memory: the largest resident set of the process up to the last step (a checkpoint is written after it), beyond what importing took: data,"
        " weights, gradients, what is kept for the backward pass, and what the arithmetic needs for a while.",
    ]
    publish("Activation checkpointing: memory and time", rows, notes, given)


if __name__ == "__main__":
    main()
