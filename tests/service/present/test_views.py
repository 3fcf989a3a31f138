"""What lists answer: the model's own JSON, and of each row as it is now."""

import json
from typing import Any

from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind, State
from largebatch.service.present.views import JobPage, JobView, page_as_json

ODD: list[dict[str, Any]] = [
    {},
    {"tags": ("ü", "a\\b"), "notes": 'q"uote\n\u2028 😀', "learning_rate": 1e16, "momentum": 0.1 + 0.2, "seed": 2**53 - 1, "priority": -1},
    {"progress": {"step": 3, "loss": 1e-20, "of": [1, {"x": None}], "metric": "ä\u0007"}, "is_cancel_asked": True, "started_at_s": 1.7e9 + 1e-6},
    {"progress": {"test_accuracy": 0.5}, "ended_at_s": 1.7e9 + 1 / 3, "deadline_at_s": 2e9, "state": State.FAILED, "reason": "<b>", "attempt": 2},
]


def job(number: int, **facts: Any) -> Job:
    return Job.model_validate(
        {"id": f"run-{number}", "kind": Kind.RUN, "owner": "ann", "name": "Run", "recipe": None, "cpus": 0.1, "gpus": 0, "created_at_s": 1e9 + number}
        | facts
    )


def test_a_page_is_what_its_model_would_say(store: Store) -> None:
    jobs = [job(number, **facts) for number, facts in enumerate(ODD)]
    for each in jobs:
        store.accept(each, None, "", 10)
    assert page_as_json(store.page(Kind.SWEEP)) == b'{"items":[],"next_cursor":null,"total":null}'
    for limit, following in ((4, None), (3, f"{jobs[1].created_at_s!r}~run-1")):
        expected = JobPage(items=[JobView.model_validate(each) for each in jobs[::-1][:limit]], next_cursor=following, total=4)
        for _ in range(2):
            assert page_as_json(store.page(Kind.RUN, limit=limit, counts=True)) == expected.model_dump_json().encode()


def test_a_page_is_never_of_an_earlier_row(store: Store) -> None:
    accepted, _ = store.accept(job(1), None, "", 10)
    replica = Store(store.engine)
    said: list[Any] = []
    for notes in ("", "once", "twice", "once"):
        replica.say_of(accepted, notes=notes)
        said.append(json.loads(page_as_json(store.page(Kind.RUN)))["items"][0]["notes"])
    replica.note(accepted, progress={"step": 1})
    said.append(json.loads(page_as_json(store.page(Kind.RUN)))["items"][0]["progress"])
    assert said == ["", "once", "twice", "once", {"step": 1}]
