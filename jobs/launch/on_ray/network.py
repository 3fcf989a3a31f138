"""The network interface that workers talk over: the one with the address by which Ray knows their machine.

Gloo takes the address that the machine's own name stands for. On many machines that is a loopback address (Debian
writes 127.0.1.1 into /etc/hosts) or none: good enough within one machine, and no way to another.
"""

import fcntl
import os
import socket
import struct

import ray

GLOO = "GLOO_SOCKET_IFNAME"
ASK_ADDRESS = 0x8915
"""Linux's SIOCGIFADDR; elsewhere the question is not understood, and Gloo looks for itself."""


def use_rays_interface() -> None:
    """Tell Gloo, unless a person has told it."""
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault(GLOO, name)


def interface_of(address: str) -> str | None:
    """The name of this machine's interface with that IPv4 address; None if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, ASK_ADDRESS, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
