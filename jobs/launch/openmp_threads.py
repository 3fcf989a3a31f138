"""How long OpenMP's threads spin while they wait for each other: long enough for an idle machine, not too long for a busy one.

The threads of a step meet some hundred times. GNU's runtime lets one that waits spin for about ten milliseconds before it sleeps. That is longer
than the system gives a core to anybody else: where other processes work beside the run, a thread that spins keeps the core from the very thread
that it waits for, and training is tens of times slower than it need be. A hundred microseconds of spinning cost an idle machine nothing
(docs/results/busy_machine.md); sleeping at once (OMP_WAIT_POLICY=passive) is best on a busy one, and costs an idle one half of a small step.
"""

import os
from collections.abc import MutableMapping

SPINS = "GOMP_SPINCOUNT"
BRIEFLY = "5000"
"""Rounds of the processor's pause instruction; the runtime's own number is 300,000."""
CHOSEN_BY = (SPINS, "OMP_WAIT_POLICY")
"""By these a person has chosen."""


def spin_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set this for a process and those that it starts. It must come before torch is imported: the runtime reads it once, when it is loaded."""
    if not any(environment.get(name) for name in CHOSEN_BY):
        environment[SPINS] = BRIEFLY
