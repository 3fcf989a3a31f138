"""Machines that come and go: Ray's own cluster utility, two nodes on this machine: python elastic_scenario.py FOLDER.

A process of its own: Ray's client in one process does not take well to cluster after cluster.
"""

import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import launch_runs as runs
import slow
import small_runs
from torch import Tensor

from largebatch.jobs.launch.options import Workers
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome, StepRecord


def main(tmp_path: Path) -> None:
    """Lose one of two machines, get one that has no data and one that has, and look at the journal."""
    # A dead node is measured in a second rather than in ten, and a group that cannot start asks again soon.
    for name, value in {
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": "/tmp/lbe" + str(os.getpid()),
    }.items():
        os.environ[name] = value
    os.makedirs(os.environ["RAY_TMPDIR"])
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    watcher = runs.Watcher()
    # Slow: some hundred steps in all, which one process repeats at the end.
    checkpoint = {"every_steps": 10, "every_seconds": None, "best": False, "keep": 2}
    spec_document = runs.slow_document(tmp_path / "acted", stop={"steps": 1_000_000}, checkpoint=checkpoint, dataset={"entry_point": "slow:digits"})
    ended: list[Any] = []
    trains = threading.Thread(target=lambda: ended.append(_train(tmp_path, cluster.address, spec_document, watcher)))
    run_dir = tmp_path / "run"

    def worlds() -> list[int]:
        return [record.world_size for record in runs.starts(run_dir)] if run_dir.exists() else []

    try:
        # Ray's utility wants the main thread for adding nodes, so the run has another.
        trains.start()
        runs.wait_for(lambda: worlds() == [2] and len(runs.steps(run_dir)) > 20, 90)
        cluster.remove_node(nodes[1], allow_graceful=False)
        runs.wait_for(lambda: worlds() == [2, 1] and runs.steps(run_dir)[-1] > runs.starts(run_dir)[1].step + 20, 120)
        cluster.add_node(num_cpus=1, env_vars={slow.UNFIT: "1"})
        runs.wait_for(lambda: worlds() == [2, 1, 1], 120)
        cluster.add_node(num_cpus=1)
        runs.wait_for(lambda: worlds()[-1] == 2 and len(worlds()) > 3 and runs.steps(run_dir)[-1] > runs.starts(run_dir)[-1].step + 20, 180)
        watcher.stops.set()
        trains.join(60)
    finally:
        watcher.stops.set()
        trains.join(30)
        cluster.shutdown()
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
    (summary,) = ended
    assert summary.outcome is Outcome.STOPPED
    shares = [record.samples_per_rank or [] for record in runs.starts(run_dir)]
    assert shares[0] == [125, 125]
    assert shares[1] == shares[2] == [250]
    (gone,) = [text for text in runs.notices(run_dir) if "gone, with" in text]
    assert re.match(r"Failure: machine .+ is gone, with 1 of 2 workers\.", gone)
    (left_out,) = [text for text in runs.notices(run_dir) if "no digits on this machine" in text]
    assert "That machine is left out from now on." in left_out
    assert all(sum(share) == 250 for share in shares), "the global batch stays what it is"
    assert runs.steps(run_dir) == list(range(1, summary.steps + 1)), "no step lost or doubled"
    (tmp_path / "acted").touch()
    one, other = (_alone(tmp_path / str(size), spec_document, size, summary.steps) for size in (50, 25))
    # What roundings alone do over so many steps; the factor is that of docs/workers.md.
    yardstick = max(runs.distance(one, other), 2**-20)
    measured = runs.distance(one, runs.parameters(run_dir))
    print(f"after {summary.steps} steps: {measured:.1e} from one process, whose own micro-batches differ by {yardstick:.1e}")
    assert measured <= 10 * yardstick


def _alone(run_dir: Path, spec_document: dict[str, Any], micro_batch_size: int, steps: int) -> dict[str, Tensor]:
    """The same run in this process, undisturbed, for so many steps."""
    batch = {**spec_document["batch"], "micro_batch_size": micro_batch_size}
    done: list[Any] = []
    listener = Listener(
        on_record=lambda record: done.append(record) if isinstance(record, StepRecord) else None, should_stop=lambda: len(done) >= steps
    )
    small_runs.trained(small_runs.prepared(**{**spec_document, "batch": batch}), run_dir, listener)
    return runs.parameters(run_dir)


def _train(folder: Path, address: str, spec_document: dict[str, Any], watcher: runs.Watcher) -> Any:
    try:
        return runs.train(folder, address, Workers(1, 2), spec_document, watcher, cpus=1.0)
    except Exception as error:
        return error


if __name__ == "__main__":
    main(Path(sys.argv[1]))
