"""What a sweep would do, before it does: how many runs, in which groups, and the same in words."""

from typing import Any

from largebatch.tuning.sweep.space import SweepGroup, group_name, groups
from largebatch.tuning.sweep.spec import RangeSpec, SweepSpec

LONGEST_LINE = 1000


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
