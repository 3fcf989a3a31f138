"""One training command, from its options to its summary: in this process, or on many workers by Ray."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.final_message import last_words
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.stored_runs import fetch_stored, going_on, mirrored_spec
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_process import MirrorProcess

EXIT_CODES = {Outcome.DIVERGED: 3, Outcome.STOPPED: 4}


def train(
    options: TrainOptions,
    listener: Listener,
    *,
    draw: Callable[[Path], None] = lambda run_dir: None,
    program: str = "largebatch train",
) -> RunSummary:
    """Train, and leave the whole story in one run folder.

    Args:
        draw: draws the run's figure into its folder.
        program: what a person types before the options, for words on how to go on.
    Raises: LargebatchError; KeyboardInterrupt for a further Ctrl-C.
    """
    begun: list[Path] = []

    def on_start(run_dir: Path) -> None:
        begun.append(run_dir)
        listener.on_start(run_dir)

    follower = replace(listener, on_start=on_start)
    with last_words(options, begun, program):
        fetch_stored(options)
        spec = spec_of(options)
        if options.workers is not None:
            from largebatch.jobs.launch.on_ray.train import train_on_ray  # the lazy gate to Ray: one process needs none

            summary = train_on_ray(spec, options, follower, draw)
        else:
            with MirrorProcess(mirrored_spec(spec, options)) as mirror:
                # The lazy gate to torch: MLflow's import, in the mirror, goes on beside torch's.
                from largebatch.jobs.launch.local import prepare_locally, train_locally

                options = going_on(options)
                job = prepare_locally(spec, options)
                listener.on_plan(job.plan.total_steps, job.plan.total_progress)
                summary = train_locally(job, options, follower, draw=draw, mirror=mirror)
    if summary.outcome is Outcome.STOPPED:
        listener.on_notice(f"Stopped at step {summary.steps}. Go on with: {options.resuming(summary.run_dir).command(program)}")
    return summary


def spec_of(options: TrainOptions) -> TrainSpec:
    """What to train: of the recipe, or of the run that goes on, with the overrides. Raises: SpecError, CheckpointError."""
    if options.resume is not None and options.recipe is not None:
        raise SpecError("RECIPE", "a resumed run has its recipe already.", "Leave it out; change single values with --set.")
    if options.resume is not None:
        return resumed_spec(options.resume, options.all_overrides)
    if options.recipe is None:
        raise SpecError("RECIPE", "is missing.", "Give a recipe's name or file, or --resume RUN_DIR. `largebatch recipes` lists them.")
    return read_spec(options.recipe, options.all_overrides)


def exit_code(summary: RunSummary) -> int:
    """0 done, 3 diverged, 4 stopped and resumable."""
    return EXIT_CODES.get(summary.outcome, 0)
