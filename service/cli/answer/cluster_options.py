"""The options of `largebatch scale` that say what joins the workers, and what a run's time holds beside its steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.options import Option
from largebatch.service.cli.options import refuse_unless_positive
from largebatch.tuning.results.analysis.beside import Beside
from largebatch.tuning.results.analysis.cluster import Cluster, Link
from largebatch.tuning.results.analysis.scaling_model import BUCKETS_OVERLAP, largest_share
from largebatch.tuning.results.analysis.step_time import Profile

GBIT, MICROSECOND = 1e9 / 8, 1e-6
MACHINES = (1, 2, 4, 8, 16, 32, 64)
"""How many are asked about where nobody says how many workers."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Bandwidths are each worker's own, each way: of a link that a machine's workers share, give one worker's part."""

    bandwidth: Annotated[float, Option("Of the link between workers; with --per-machine of each worker's to other machines.", metavar="GBIT/S")] = (
        10.0
    )
    latency: Annotated[float, Option("Of that link.", metavar="MICROSECONDS")] = 50.0
    per_machine: Annotated[int | None, Option("Workers of one machine, which a faster link joins.", metavar="N", minimum=1)] = None
    bandwidth_inside: Annotated[float | None, Option("With --per-machine: of each worker's link inside its machine.", metavar="GBIT/S")] = None
    latency_inside: Annotated[float, Option("Of that link.", metavar="MICROSECONDS")] = 2.0
    overlap: Annotated[
        float | None,
        Option("The share of an all-reduce that may run beside the backward pass, 0 to 1; default 0 with --per-machine, else 0.75.", metavar="SHARE"),
    ] = None
    startup: Annotated[float | None, Option("Of a run; default with --per-machine the runs' own, else 0.", metavar="SECONDS")] = None
    evaluation: Annotated[
        float | None, Option("One evaluation by one worker alone; default with --per-machine the runs' own, else 0.", metavar="SECONDS")
    ] = None
    evaluate_every: Annotated[float | None, Option("From one evaluation to the next; default the runs' own, else 1.", metavar="EPOCHS")] = None
    memory: Annotated[float | None, Option("Of each worker: bounds its share of a batch by what a GPU's profile measured.", metavar="GIB")] = None
    largest_share: Annotated[int | None, Option("Samples that fit into one worker in a step, instead of --memory.", minimum=1)] = None

    def check(self) -> None:
        """Raises: SpecError for a number that cannot be, and for options that do not go together."""
        for option in ("bandwidth", "bandwidth_inside", "evaluate_every", "memory"):
            refuse_unless_positive(f"--{option.replace('_', '-')}", getattr(self, option))
        for option in ("latency", "latency_inside", "startup", "evaluation"):
            refuse_unless_positive(f"--{option.replace('_', '-')}", getattr(self, option) or None)
        if self.overlap is not None and not 0 <= self.overlap <= 1:
            raise SpecError("--overlap", f"{self.overlap:g} is not a share from 0 to 1.")
        if self.per_machine is None and self.bandwidth_inside is not None:
            raise SpecError("--per-machine", "is missing: --bandwidth-inside is of machines of several workers.", "Example: --per-machine 8.")
        if (self.per_machine or 1) > 1 and self.bandwidth_inside is None:
            raise SpecError(
                "--bandwidth-inside", "is missing: what joins the workers of one machine?", "Example: --bandwidth-inside 3600, of NVLink 4."
            )
        if self.memory is not None and self.largest_share is not None:
            raise SpecError("--largest-share", "and --memory exclude each other.", "Give one of the two.")

    def fill_machines(self, counts: Sequence[int]) -> None:
        """Raises: SpecError for a number of workers that leaves a machine half full."""
        together = self.per_machine or 1
        unlike = [f"{count:,}" for count in counts if count > together and count % together]
        if unlike:
            raise SpecError("--workers", f"{', '.join(unlike)} do not fill machines of {together}.", f"Give multiples of {together}.")

    @property
    def cluster(self) -> Cluster:
        """What joins the workers."""
        between = Link(self.bandwidth * GBIT, self.latency * MICROSECOND)
        inside = None if self.bandwidth_inside is None else Link(self.bandwidth_inside * GBIT, self.latency_inside * MICROSECOND)
        return Cluster(between, inside, self.per_machine)

    @property
    def overlap_share(self) -> float:
        """The share of an all-reduce that may hide."""
        if self.overlap is not None:
            return self.overlap
        return BUCKETS_OVERLAP if self.per_machine is None else 0.0

    def share(self, profile: Profile) -> int | None:
        """The samples that fit into one worker; None: any number. Raises: InputError where the profile does not tell."""
        return self.largest_share if self.memory is None else largest_share(profile, self.memory * 2**30)

    def beside(self, of_runs: Beside | None, num_samples: int) -> Beside:
        """Start-up and evaluation: as given, else with machines the runs' own. Args: num_samples: of an epoch."""
        default = (self.per_machine is not None and of_runs) or Beside()
        every = of_runs.evaluate_every if of_runs is not None and math.isfinite(of_runs.evaluate_every) else num_samples
        return Beside(
            default.startup_s if self.startup is None else self.startup,
            default.evaluation_s if self.evaluation is None else self.evaluation,
            every if self.evaluate_every is None else self.evaluate_every * num_samples,
        )

    def words(self, beside: Beside) -> str:
        """The assumptions, for a person."""
        if self.per_machine is None:
            links = f"{self.bandwidth:g} Gbit/s, {self.latency:g} us"
        else:
            inside = f"{self.bandwidth_inside or 0:,g} Gbit/s and {self.latency_inside:g} us inside, " if self.bandwidth_inside else ""
            links = f"machines of {self.per_machine}, {inside}{self.bandwidth:,g} Gbit/s and {self.latency:g} us between"
            links += f", {self.overlap_share:.0%} of an all-reduce beside the backward pass at most"
        counted = [f"start-up {beside.startup_s:.3g} s"] if beside.startup_s else []
        counted += [f"evaluation {beside.evaluation_s:.3g} s on one worker"] if beside.evaluation_s else []
        return ", ".join([links, *counted])
