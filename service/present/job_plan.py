"""What a job would do, before it does: what it would hold and when it would start; of a sweep how many runs, in which groups; in words."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from largebatch.service.job import ACTIVE, Job, State
from largebatch.tuning.sweep.space import SweepGroup, group_name, groups
from largebatch.tuning.sweep.spec import RangeSpec, ResourcesSpec, SweepSpec

LONGEST_LINE = 1000


class PlanLine(BaseModel):
    """One decision of the plan, for people."""

    what: str
    how: str
    """How, and why."""


OF_OWN_CODE = PlanLine(
    what="plan", how="made when the job starts: a plan of your own code has to run it, and this service runs own code in jobs alone"
)


def holds_in_words(job: Job, counts: Mapping[str, int]) -> list[PlanLine]:
    """What a job would hold while it runs, and whether others are before it. Args: counts: of jobs by state."""
    workers = f", shared by {job.workers} workers" if job.workers else ""
    gpus = f"{job.gpus} GPU{'s' * (job.gpus > 1)}" if job.gpus else "no GPU"
    held = f"{job.cpus:g} CPU core{'s' * (job.cpus != 1)}, {gpus} and {job.memory_gib:.3g} GiB of memory while it runs{workers}"
    running, waiting = sum(counts[state] for state in ACTIVE), counts[State.QUEUED]
    turn = "at once: nothing else runs"
    if running or waiting:
        turn = f"{running} jobs run and {waiting} wait: it starts when there is room, and its turn has come"
    return [PlanLine(what="holds", how=held), PlanLine(what="starts", how=turn)]


def runs_at_once(cpus: float, gpus: int, each: ResourcesSpec) -> int:
    """The runs of a sweep that so many cores and GPUs are enough for at a time. Args: each: what one of them takes."""
    each_gpus = each.workers * (each.gpus_per_worker or 0.0)
    return int(min(cpus / (each.workers * each.cpus_per_worker), gpus / each_gpus if each_gpus else math.inf) + 1e-9)


def narrowed_in_words(job: Job, max_concurrent: int | None) -> list[PlanLine]:
    """That memory is what keeps more of a sweep's runs from going at a time, where it is. Args: max_concurrent: what was asked for."""
    each = ResourcesSpec.model_validate(job.spec["resources"])
    wanted = min(runs_at_once(job.cpus, job.gpus, each), max_concurrent or math.inf)
    if each.max_concurrent is None or each.max_concurrent >= wanted:
        return []
    processes = each.workers * each.max_concurrent
    each_gib = f"{job.memory_gib / processes:.3g} for {'each of its' if processes > 1 else 'its one'} process{'es' * (processes > 1)}"
    how = f"enough for {each.max_concurrent} at a time, where {wanted} would fit otherwise: {job.memory_gib:.3g} GiB, {each_gib}"
    return [PlanLine(what="memory", how=f"{how}; where a run takes less, say how much they may hold: memory_gib")]


def plan_facts(sweep: SweepSpec, total: int, *, is_checked: bool = True) -> dict[str, Any]:
    """The number of runs, the groups, and lines for people.

    Args:
        total: how many runs there will be.
        is_checked: whether the models that had to be examined had their weights.
    """
    sweep_groups = groups(sweep)
    num_trials, method = sweep.num_trials, sweep.search.method
    lines = [("runs", f"{total}: {len(sweep_groups)} groups, {num_trials} searched and {sweep.num_repeated} repeated in each ({method})")]
    lines.append(("at a time", f"at most {sweep.resources.max_concurrent}" if sweep.resources.max_concurrent else "as many as fit on the machine"))
    lines += [(group_name(group), searched_in_words(group)[:LONGEST_LINE] or "no search") for group in sweep_groups]
    if not is_checked:
        lines.append(("model check", "made before each run; this plan was made without the model's weights"))
    return {"runs": total, "groups": [group.fields for group in sweep_groups], "lines": [{"what": what, "how": how} for what, how in lines]}


def searched_in_words(group: SweepGroup) -> str:
    """What is searched in a group: `base 0.05 ... 1`."""
    space = group.space.items()
    return ", ".join(f"{name} {span.low:.4g} ... {span.high:.4g}" if isinstance(span, RangeSpec) else f"{name} {span}" for name, span in space)
