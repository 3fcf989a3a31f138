"""Whose turn it is, by hand-made queues and by many random ones."""

import random
from typing import Any

import pytest

from largebatch.service.job import MOVES, Capacity, Job, Kind, State
from largebatch.service.queue.schedule import Limits, choose, limits_of, turns
from largebatch.service.settings import Settings

NO_LIMITS = Limits(1000, 1000)


def job(name: str, owner: str = "ann", at_s: float = 0.0, **parts: object) -> Job:
    given = {"cpus": 1.0, "gpus": 0, "state": State.QUEUED, **parts}
    return Job.model_validate({"id": name, "kind": Kind.RUN, "owner": owner, "name": name, "recipe": None, "spec": {}, "created_at_s": at_s, **given})


def names(jobs: list[Job]) -> list[str]:
    return [one.id for one in jobs]


def test_who_came_first_goes_first_and_higher_priority_before() -> None:
    waiting = [job("b", at_s=2), job("a", at_s=1), job("urgent", at_s=3, priority=5)]
    assert names(choose(waiting, [], Capacity(2, 0), NO_LIMITS, 0.0)) == ["urgent", "a"]


def test_what_recovers_goes_before_everything() -> None:
    waiting = [job("urgent", priority=100), job("back", at_s=9, state=State.RECOVERING)]
    assert names(choose(waiting, [], Capacity(1, 0), NO_LIMITS, 0.0)) == ["back"]


def test_owners_take_turns() -> None:
    waiting = [*(job(f"ann{n}", "ann", n) for n in range(5)), job("bob", "bob", 100), job("eve", "eve", 200)]
    assert names(choose(waiting, [], Capacity(4, 0), NO_LIMITS, 0.0)) == ["ann0", "bob", "eve", "ann1"]
    holding = [job("old", "bob", cpus=3.0, state=State.RUNNING)]
    assert names(choose(waiting, holding, Capacity(6, 0), NO_LIMITS, 0.0)) == ["ann0", "eve", "ann1"]


def test_nobody_is_overtaken_by_a_smaller_job() -> None:
    waiting = [job("large", cpus=8.0), job("small", at_s=1)]
    holding = [job("one", state=State.RUNNING)]
    assert choose(waiting, holding, Capacity(8, 0), NO_LIMITS, 0.0) == []
    assert names(choose(waiting, [], Capacity(8, 0), NO_LIMITS, 0.0)) == ["large"]


def test_memory_is_counted_as_cores_are() -> None:
    waiting = [job("a", memory_gib=3.0), job("b", at_s=1, memory_gib=3.0), job("c", at_s=2, memory_gib=1.0), job("huge", at_s=0.5, memory_gib=9.0)]
    holding = [job("old", state=State.RUNNING, memory_gib=1.0)]
    assert names(choose(waiting, holding, Capacity(8, 0, 4.0), NO_LIMITS, 0.0)) == ["a"], "b waits, c does not overtake it, huge waits for nobody"
    assert names(choose([job("of before")], [job("one", state=State.RUNNING, memory_gib=4.0)], Capacity(8, 0, 4.0), NO_LIMITS, 0.0)) == ["of before"]


def test_only_an_administrator_s_priority_goes_before_other_owners() -> None:
    bob = [job("bob1", "bob", 1.0), job("bob2", "bob", 2.0, priority=9)]
    assert names(choose([job("ann", at_s=0.0), *bob], [], Capacity(1, 0), NO_LIMITS, 0.0)) == ["ann"]
    assert names(choose([job("ann", at_s=0.0), *bob], [], Capacity(2, 0), NO_LIMITS, 0.0)) == ["ann", "bob2"], "among bob's own it counts"
    urgent = job("urgent", "eve", 3.0, priority=9, priority_among_owners=9)
    assert names(choose([job("ann"), *bob, urgent], [], Capacity(1, 0), NO_LIMITS, 0.0)) == ["urgent"]
    humble = job("humble", "ann", 0.0, priority=-5, priority_among_owners=-5)
    assert names(choose([humble, *bob], [], Capacity(1, 0), NO_LIMITS, 0.0)) == ["bob2"]


@pytest.mark.parametrize(
    ("options", "cores", "limits"),
    [
        ({}, 8.0, Limits(8, 10_000)),
        ({}, 2.9, Limits(2, 10_000)),
        ({}, 0.5, Limits(1, 10_000)),
        ({"max_running_per_owner": 3}, 8.0, Limits(3, 10_000)),
        ({"max_running_per_owner": 0, "max_running": 9, "max_gpus_per_owner": 2}, 8.0, Limits(0, 2, 9)),
    ],
)
def test_unless_told_otherwise_an_owner_runs_as_many_as_there_are_cores(options: dict[str, Any], cores: float, limits: Limits) -> None:
    assert limits_of(Settings(**options), Capacity(cores, 0)) == limits
    small = [job(f"ann{n:02}", "ann", n, cpus=0.25) for n in range(20)]
    begun = choose(small, [], Capacity(cores, 0), limits_of(Settings(**options), Capacity(cores, 0)), 0.0)
    assert len(begun) == min(limits.running, int(cores / 0.25)), "a quarter of a core each, and no more of them than that"


def test_an_owner_at_a_limit_is_passed_over() -> None:
    waiting = [job("ann2"), job("bob", "bob", 5.0)]
    holding = [job("ann1", state=State.RUNNING)]
    assert names(choose(waiting, holding, Capacity(8, 0), Limits(1, 8), 0.0)) == ["bob"]
    gpus = [job("much", gpus=3), job("little", at_s=1, gpus=1)]
    assert names(choose(gpus, [], Capacity(8, 8), Limits(9, 2), 0.0)) == ["little"]


def test_so_many_jobs_run_together_and_no_more_begin() -> None:
    waiting, holding = [job("ann2"), job("bob", "bob", 5.0), job("eve", "eve", 6.0)], [job("ann1", state=State.RUNNING)]
    assert names(choose(waiting, holding, Capacity(8, 0), Limits(9, 9, 3), 0.0)) == ["bob", "eve"]
    assert choose(waiting, holding, Capacity(8, 0), Limits(9, 9, 1), 0.0) == []


@pytest.mark.parametrize(("not_before_s", "goes"), [(None, True), (99.0, True), (130.0, False), (1e9, True)])
def test_a_pause_is_kept_unless_a_clock_jumped(not_before_s: float | None, goes: bool) -> None:
    waiting = [job("back", state=State.RECOVERING, not_before_s=not_before_s)]
    assert bool(choose(waiting, [], Capacity(1, 0), NO_LIMITS, 100.0)) is goes


@pytest.mark.parametrize("seed", range(200))
def test_random_queues_never_hold_too_much(seed: int) -> None:
    draw = random.Random(seed)

    def some(count: int, state: State) -> list[Job]:
        return [
            job(f"{state}{n}", draw.choice("abc"), draw.random(), cpus=float(draw.randint(1, 4)), gpus=draw.randint(0, 2), state=state,
                priority=draw.randint(-2, 2))
            for n in range(count)
        ]  # fmt: skip

    capacity, limits = Capacity(draw.randint(4, 16), draw.randint(0, 8)), Limits(draw.randint(1, 4), draw.randint(1, 6))
    holding = [one for one in some(3, State.RUNNING) if one.gpus <= capacity.gpus]
    waiting = some(12, State.QUEUED)
    chosen = choose(waiting, holding, capacity, limits, 0.0)
    assert names(chosen) == names(choose(waiting[::-1], holding, capacity, limits, 0.0)), "the order of rows does not matter"
    assert len(set(names(chosen))) == len(chosen)
    if chosen:
        together = [*holding, *chosen]
        assert sum(one.cpus for one in together) <= capacity.cpus
        assert sum(one.gpus for one in together) <= capacity.gpus
        for owner in {one.owner for one in chosen}:
            assert sum(one.owner == owner for one in together) <= limits.running
            assert sum(one.gpus for one in together if one.owner == owner) <= limits.gpus
    # Within one owner nothing of lower priority goes before what would have fitted in its place.
    for one in chosen:
        above = [other for other in waiting if other.owner == one.owner and other.priority > one.priority and other not in chosen]
        assert all(other.gpus > one.gpus or other.cpus > one.cpus for other in above)


def test_every_state_can_end_and_none_moves_to_itself() -> None:
    for state, following in MOVES.items():
        assert state not in following
        reached, waiting = set(), [state]
        while waiting:
            here = waiting.pop()
            reached.add(here)
            waiting += MOVES[here] - reached
        assert State.FAILED in reached or state is State.SUCCEEDED


def test_who_waits_is_told_why() -> None:
    def why(waiting: list[Job], holding: list[Job], capacity: Capacity, limits: Limits = NO_LIMITS) -> dict[str, str]:
        return {turn.job.id: turn.why for turn in turns(waiting, holding, capacity, limits, 0.0)}

    holding = [job("old", gpus=6, cpus=6.0, state=State.RUNNING, memory_gib=10.0)]
    there = Capacity(8, 8, 16.0)
    assert why([job("a", gpus=4), job("b", at_s=1)], holding, there) == {"a": "waits for 2 GPUs", "b": "waits behind a"}
    assert why([job("a", cpus=3.0, gpus=3, memory_gib=8.5)], holding, there) == {"a": "waits for 1 GPU and 1 core and 2.5 GiB of memory"}
    assert why([job("a", gpus=1)], holding, there) == {"a": ""}
    assert why([job("a", gpus=9), job("b", at_s=1)], holding, there) == {"a": "asks for more than there is: 9 GPUs", "b": ""}
    assert why([job("a")], holding, there, Limits(1, 9)) == {"a": "its owner runs as many as one may (1)"}
    assert why([job("a", gpus=2)], holding, there, Limits(9, 7)) == {"a": "its owner would hold more GPUs than one may (7)"}
    assert why([job("a")], [], there, Limits(0, 9)) == {"a": "nothing is begun just now, as the operator set it"}
    assert why([job("a", state=State.RECOVERING, not_before_s=8.0)], [], there) == {"a": "goes on in 8 s, after a failure"}
