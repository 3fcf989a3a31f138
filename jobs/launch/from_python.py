"""`largebatch.train`: one training run from a Python program, on this machine, in this process."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from largebatch.jobs.launch.local import prepare_locally, train_locally
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.stored_runs import fetch_stored, going_on
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Record, RunSummary
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.jobs.spec.train_spec import TrainSpec


def train(
    spec: TrainSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    output_dir: str | os.PathLike[str] = "runs",
    data_dir: str | os.PathLike[str] = "data",
    device: str = "auto",
    run_id: str | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    on_notice: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunSummary:
    """Train one spec on this machine, and leave the whole story in a run folder.

        import largebatch

        summary = largebatch.train("digits-lamb", output_dir="runs")
        print(summary.outcome, summary.score, summary.training_seconds)

    In a main thread Ctrl-C and SIGTERM finish the step and save, and the summary's outcome is "stopped"; the program's own handlers are
    put back at the end. In any other thread no handler is touched.

    Args:
        spec: a recipe's name, a YAML or JSON file's path, a mapping of a spec's keys, or a TrainSpec.
        output_dir: where run folders go: a folder, or a URI such as s3://bucket/runs.
        data_dir: where data sets lie, as torchvision lays them out.
        device: auto, cpu or cuda.
        run_id: the run's id; given again, the run goes on from its newest checkpoint.
        on_record: told every record (start, step, evaluation, notice, end) as it is written.
        on_notice: told in words what a person should know.
        should_stop: asked at every step; once it says so, the run finishes the step, saves and ends.
    Raises: InputError for a spec, data or options that cannot be used; CodeError; FaultError.
    """
    if isinstance(spec, Mapping):
        spec = build_spec(spec)
    elif not isinstance(spec, TrainSpec):
        spec = read_spec(os.fspath(spec))
    options = TrainOptions(data_dir=Path(data_dir), device=device, run_id=run_id).storing(os.fspath(output_dir))
    options = going_on(fetch_stored(options))
    return train_locally(prepare_locally(spec, options), options, Listener(on_record=on_record, on_notice=on_notice, should_stop=should_stop))
