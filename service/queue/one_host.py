"""Local jobs are processes of one machine: services of two machines on one database would each take the other's for lost.

Two notes in the database keep them apart. Which machine runs the jobs now: a lease that its services renew, and that
runs out 15 seconds after the last of them. And where its attempts lie (the service's own folder among the runs): as long
as jobs of that place may still run, a service that cannot see them does not begin.
"""

import contextlib
import secrets
import socket
import time
from pathlib import Path

from largebatch.jobs.errors import InputError
from largebatch.service.db.store import Store

HOST, PLACE = "local host", "local place"
LEASE_S = 15.0
PATIENCE_S = LEASE_S + 2.0
"""Of a service that was just moved here, the old lease runs out."""
FOR_GOOD_S = 1e9
PLACE_FILE = "place"


def this_host() -> str:
    """The machine's name, in containers the container's."""
    return socket.gethostname()[:60]


def claim(store: Store, state_dir: Path, takes_over: bool) -> None:
    """Make this machine the one that runs the database's local jobs. Raises: InputError if another does.

    Args: takes_over: the operator says that what another place began does not run any more.
    """
    place = f"{this_host()[:40]}/{_place(state_dir)}"
    ends_at = time.monotonic() + PATIENCE_S
    while not store.hold_lease(HOST, this_host(), LEASE_S):
        if time.monotonic() > ends_at:
            raise InputError(
                "--database-url",
                f"a service on {store.lease_holder(HOST)} runs this database's jobs as processes of that machine.",
                "Stop it first, or let both start jobs on Ray: --ray-address.",
            )
        time.sleep(0.5)
    if not store.hold_lease(PLACE, place, FOR_GOOD_S):
        before = str(store.lease_holder(PLACE))
        if before.partition("/")[2] != place.partition("/")[2] and store.active_ids() and not takes_over:
            raise InputError(
                "--runs-dir",
                f"jobs that were begun on {before.partition('/')[0]} may still run there, and their attempts do not lie here.",
                "Start it there, or with that --runs-dir. If nothing of them runs any more: --take-over.",
            )
        store.give_back(PLACE, before)
        store.hold_lease(PLACE, place, FOR_GOOD_S)


def _place(state_dir: Path) -> str:
    """What this folder is called, wherever it is mounted."""
    path = state_dir / PLACE_FILE
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(secrets.token_hex(8))
    return path.read_text()
