"""`python -m largebatch.jobs SPEC`: the command that every door ends in, with the engine's own dependencies alone."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path.pop(0)  # the current folder, before anything is imported: what is called random.py there is not Python's own

import argparse
import os
import time
from pathlib import Path

from largebatch.jobs.collector import collect_seldom
from largebatch.jobs.errors import CodeError, LargebatchError, SpecError
from largebatch.jobs.launch.last_words import unforeseen, with_way_on
from largebatch.jobs.launch.options import RayOptions, fetch_stored, read_places, read_workers, resume_command
from largebatch.jobs.launch.spinning import spin_briefly
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Outcome, Record, RunSummary, StepRecord
from largebatch.jobs.run.run_folder import CHECKPOINTS, resumed_spec
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.streams import drop_what_nobody_reads, print_answer, standard_output_kept

EXIT_CODES = {Outcome.DIVERGED: 3, Outcome.STOPPED: 4}
LINE_EVERY_S = 5.0


def exit_code(summary: RunSummary) -> int:
    """0 done, 3 diverged, 4 stopped and resumable."""
    return EXIT_CODES.get(summary.outcome, 0)


def saved_place(run_dir: Path, store: str | None) -> str | None:
    """Where a run that was cut off goes on from: its folder, or that on the storage; None if it has no checkpoint yet."""
    if not list_checkpoints(run_dir / CHECKPOINTS):
        return None
    return f"{store}/{run_dir.name}" if store else str(run_dir)


def _again(place: str | Path, ray_options: RayOptions | None) -> str:
    """The command that goes on with a run, in this module's own words: the engine alone has no other."""
    return f"python -m largebatch.jobs {resume_command(place, ray_options).removeprefix('largebatch train ')}"


def _refused(error: LargebatchError) -> int:
    """Say what went wrong; returns the exit code."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


class PlainLines:
    """One line per evaluation, and every few seconds in between, on standard error."""

    def __init__(self) -> None:
        self._said_at_s = time.monotonic()
        self._last_step: StepRecord | None = None

    def record(self, record: Record) -> None:
        """Take note of a record."""
        if isinstance(record, StepRecord):
            self._last_step = record
            if time.monotonic() - self._said_at_s > LINE_EVERY_S:
                self._say(f"step {record.step}  epoch {record.epoch:.2f}  loss {record.loss:.4f}  lr {record.learning_rate:.4g}")
        elif isinstance(record, EvalRecord):
            self._say(f"step {record.step}  epoch {record.epoch:.2f}  test accuracy {record.test_accuracy:.4f}  {record.training_seconds:.1f} s")

    def _say(self, text: str) -> None:
        self._said_at_s = time.monotonic()
        print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train one spec; prints the summary as JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m largebatch.jobs",
        description=__doc__,
        epilog="Example: python -m largebatch.jobs digits-lamb --set stop.epochs=10",
    )
    parser.add_argument(
        "spec", nargs="?", help="recipe name, path of a YAML or JSON file, - for standard input, or env:NAME for JSON in an environment variable"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one value of the spec")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument(
        "--output-dir",
        default=os.environ.get("LARGEBATCH_OUTPUT_DIR") or "runs",
        help="folder or URI, such as s3://bucket/runs (default: LARGEBATCH_OUTPUT_DIR, else runs)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", metavar="RUN_DIR", help="go on from the newest checkpoint of a run")
    parser.add_argument("--run-id", help="the run's id; given again, the run goes on from its newest checkpoint")
    parser.add_argument("--workers", metavar="N|MIN:MAX", help="share each batch among so many workers, by Ray (its address: RAY_ADDRESS)")
    parser.add_argument("--gpus-per-worker", type=float, metavar="G")
    parser.add_argument("--cpus-per-worker", type=float, metavar="C")
    parser.add_argument("--max-failures", type=int, default=8, help="how often a run of several workers goes on by itself (default 8)")
    parser.add_argument("--worker-logs", action="store_true", help="print what the workers print, too")
    given = parser.parse_args(arguments)
    with standard_output_kept():
        return _train(given)


def _train(given: argparse.Namespace) -> int:
    lines = PlainLines()
    ray_options: RayOptions | None = None
    begun: list[Path] = []
    try:
        options = read_places(given.data_dir, given.output_dir, given.device, given.resume, given.run_id)
        if given.resume and given.spec:
            raise SpecError("SPEC", "a resumed run has its spec already.", "Leave it out; change single values with --set.")
        if not given.resume and not given.spec:
            raise SpecError("SPEC", "is missing.", "Give a recipe's name or file, or --resume RUN_DIR.")
        options = fetch_stored(options)
        spec = resumed_spec(options.resume, given.overrides) if options.resume else read_spec(given.spec, given.overrides)
        listener = Listener(on_record=lines.record, on_notice=lambda text: print(text, file=sys.stderr, flush=True))
        if given.workers:
            from largebatch.jobs.launch.on_ray.train import train_on_ray

            ray_options = RayOptions(
                read_workers(given.workers), given.gpus_per_worker, given.cpus_per_worker, None, given.max_failures, given.worker_logs
            )
            summary = train_on_ray(spec, options, ray_options, listener, on_start=begun.append)
        else:
            from largebatch.jobs.launch.local import prepare_locally, train_locally

            options = options.going_on()
            summary = train_locally(prepare_locally(spec, options), options, listener, on_start=begun.append)
    except CodeError as error:
        place = saved_place(begun[0], options.store) if begun else None
        return _refused(with_way_on(error, _again(place, ray_options) if place else None))
    except LargebatchError as error:
        return _refused(error)
    except KeyboardInterrupt:
        place = saved_place(begun[0], options.store) if begun else None
        print(f"Interrupted.{f' The last checkpoint is whole. Go on with: {_again(place, ray_options)}' if place else ''}", file=sys.stderr)
        return 130
    except Exception as error:
        return _refused(unforeseen(error, begun[0] if begun else None))
    if summary.outcome is Outcome.STOPPED:
        print(f"Stopped at step {summary.steps}. Go on with: {_again(summary.run_dir, ray_options)}", file=sys.stderr)
    print_answer(summary.model_dump_json())
    return exit_code(summary)


if __name__ == "__main__":
    collect_seldom()
    spin_briefly()
    drop_what_nobody_reads()
    sys.exit(main())
