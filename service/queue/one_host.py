"""Local jobs are processes of one machine: services of two machines on one database would each take the other's for lost.

Two notes in the database keep them apart. Which machine runs the jobs now: a lease that its services renew, and that
runs out 15 seconds after the last of them. And where its attempts lie (the service's own folder among the runs): as long
as jobs of that folder may still run, a service that cannot see them does not begin.
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
FOR_GOOD_S = 1e9
PLACE_FILE = "place"


class OneHost:
    """The claim of one machine to a database's local jobs. Args: state_dir: where the attempts lie; host: the machine's name."""

    def __init__(self, store: Store, state_dir: Path, host: str | None = None, lease_s: float = LEASE_S) -> None:
        self._store, self._state_dir, self._lease_s = store, state_dir, lease_s
        self._host = (host or socket.gethostname())[:60]  # in containers the container's name

    def hold(self) -> bool:
        """Take or renew the lease; False if another machine has it."""
        return self._store.hold_lease(HOST, self._host, self._lease_s)

    def claim(self, takes_over: bool, patience_s: float = LEASE_S + 2.0) -> None:
        """Make this machine the one that runs the local jobs. Raises: InputError if another does.

        Args: takes_over: the operator says that what was begun elsewhere does not run any more; patience_s: how long another
        machine's lease is waited for: it runs out where a service was just moved here.
        """
        ends_at = time.monotonic() + patience_s
        while not self.hold():
            if time.monotonic() > ends_at:
                problem = f"a service on {self._store.lease_holder(HOST)} runs this database's jobs as processes of that machine."
                raise InputError("--database-url", problem, "Stop it first, or let both start jobs on Ray: --ray-address.")
            time.sleep(0.5)
        holder = f"{self._host[:40]}/{self._folder_id()}"
        if not self._store.hold_lease(PLACE, holder, FOR_GOOD_S):
            before = str(self._store.lease_holder(PLACE))
            if before.partition("/")[2] != holder.partition("/")[2] and self._store.active_ids() and not takes_over:
                problem = f"jobs that were begun on {before.partition('/')[0]} may still run there, and their attempts do not lie here."
                raise InputError("--runs-dir", problem, "Start it there, or with that --runs-dir. If nothing of them runs any more: --take-over.")
            self._store.give_back(PLACE, before)
            self._store.hold_lease(PLACE, holder, FOR_GOOD_S)

    def _folder_id(self) -> str:
        """What the folder is called, wherever it is mounted."""
        path = self._state_dir / PLACE_FILE
        with contextlib.suppress(FileExistsError), path.open("x") as file:
            file.write(secrets.token_hex(8))
        return path.read_text()
