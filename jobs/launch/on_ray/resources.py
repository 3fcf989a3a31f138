"""What each worker gets of a cluster, and the refusal of what the cluster does not have before anything begins."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import TrainOptions, Workers

LISTED_MACHINES = 8
"""So many are listed in a refusal."""


class Resources(NamedTuple):
    """What each worker gets."""

    cpus: float
    gpus: float

    @property
    def num_threads(self) -> int:
        """Threads of one worker's arithmetic."""
        return max(int(self.cpus), 1)

    @property
    def bundle(self) -> dict[str, float]:
        """The same in Ray's words."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def worker_resources(options: TrainOptions, nodes: Sequence[dict[str, Any]], *, is_own: bool) -> Resources:
    """What each worker gets.

    Args:
        nodes: the cluster's machines, as `ray.nodes()` lists them.
        is_own: whether the cluster is this command's own, whose cores are shared out whole.
    Raises: InputError for more than the cluster has, with what it has.
    """
    workers, device = options.workers, options.device
    assert workers is not None
    _refuse_impossible_workers(options, workers)
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cpus, gpus = (float(sum(machine.get(kind, 0.0) for machine in machines)) for kind in ("CPU", "GPU"))
    least, most = workers.least, workers.most
    # An elastic run may begin while its machines are still coming, and stays with what it began with.
    gpus_each = options.gpus_per_worker
    if gpus_each is None:
        gpus_each = 1.0 if device != "cpu" and gpus >= least else 0.0
    if device == "cuda" and not gpus_each:
        raise InputError("--device", f"cuda for {least} workers, and the cluster has {gpus:g} GPUs.", "Use fewer workers, or --device cpu.")
    cpus_each = options.cpus_per_worker
    if cpus_each is None:
        cpus_each = max(cpus // most, 1.0) if is_own else 1.0
    if least * gpus_each > gpus:
        raise InputError("--gpus-per-worker", f"{least} workers with {gpus_each:g} GPUs each, and the cluster has {gpus:g} GPUs.", "Ask for less.")
    if least * cpus_each > cpus:
        raise InputError(
            "--workers",
            f"{least} workers with {cpus_each:g} CPUs each, and the cluster has {cpus:g} CPUs on {len(machines)} machines.",
            f"Use at most {int(cpus // cpus_each)} workers, or a smaller --cpus-per-worker.",
        )
    resources = Resources(cpus_each, gpus_each)
    _refuse_small_machines(machines, least, resources)
    return resources


def _refuse_small_machines(machines: list[dict[str, float]], least: int, resources: Resources) -> None:
    """Raises: InputError if the cluster has enough together, but no machine can hold a worker, or too few can."""
    room = 0
    for machine in machines:
        shares = [machine.get(kind, 0.0) / share for kind, share in resources.bundle.items() if share]
        room += int(min(shares) + 1e-6)
    if room < least:
        has = ", ".join(f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in machines[:LISTED_MACHINES])
        has += f", and {len(machines) - LISTED_MACHINES} more" if len(machines) > LISTED_MACHINES else ""
        raise InputError(
            "--workers",
            f"{least} workers with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs each, none of which can be spread over machines, "
            f"and these have room for {room}: {has}.",
            "Use fewer workers, or a smaller --cpus-per-worker or --gpus-per-worker.",
        )


def _refuse_impossible_workers(options: TrainOptions, workers: Workers) -> None:
    """Raises: InputError for what no cluster could give."""
    gpus, cpus = options.gpus_per_worker, options.cpus_per_worker
    if gpus is not None and gpus < 0:
        raise InputError("--gpus-per-worker", f"{gpus:g} is less than none.", "Give 1, or 0 for workers on CPUs.")
    if gpus and gpus % 1 and workers.most > 1:
        raise InputError(
            "--gpus-per-worker",
            f"{gpus:g} of a GPU for each of several workers, and NCCL joins whole GPUs only.",
            "Give 1, or 0 for workers on CPUs.",
        )
    if gpus and options.device == "cpu":
        raise InputError("--gpus-per-worker", f"{gpus:g}, and --device cpu uses none.", "Leave one of the two out.")
    if cpus is not None and cpus <= 0:
        raise InputError("--cpus-per-worker", f"{cpus:g} is not more than none.", "Give 1, or a fraction such as 0.5.")
