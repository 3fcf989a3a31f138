"""The way into a worker. Torch is not imported here: some of this must be done before torch is."""

import os

import psutil
import ray

from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.on_ray.worker.config import WorkerConfig
from largebatch.jobs.launch.openmp_threads import spin_briefly

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def enter(config: dict[str, WorkerConfig]) -> None:
    """What Ray Train calls in each worker. Args: config: the worker's, under "worker": Ray Train wants a dict."""
    collect_seldom()
    from largebatch.jobs.launch.on_ray.worker.work import work  # torch, data and models are met in the workers alone

    work(config["worker"])


def before_torch() -> None:
    """What must be set in a worker before torch is loaded and the ranks meet.

    Gloo takes the address that the machine's own name stands for. On many machines that is a loopback address (Debian writes 127.0.1.1
    into /etc/hosts) or none: good enough within one machine, and no way to another. So it is told the interface that Ray uses.
    """
    spin_briefly()
    interface = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if interface is not None:
        os.environ.setdefault(GLOO_INTERFACE, interface)


def interface_of(address: str) -> str | None:
    """The name of this machine's network interface with that address; None if there is none."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, addresses in interfaces if address in {entry.address for entry in addresses}), None)
