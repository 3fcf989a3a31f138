"""What lists are filtered and sorted by, on both databases."""

import pytest

from largebatch.jobs.errors import InputError
from largebatch.service.db.listing import Sight, read_search
from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind, State

FACTS = {  # batch, rate, momentum, score; the newest first
    "e": (None, 0.5, None, None), "d": (1024, 0.4, 0.0, 0.91), "c": (256, 0.3, 0.9, 0.99), "b": (64, 0.2, 0.9, 0.95), "a": (32, 0.1, 0.9, 0.9),
}  # fmt: skip


@pytest.fixture
def five(store: Store) -> Store:
    for number, (name, (batch, rate, momentum, score)) in enumerate(reversed(FACTS.items())):
        progress = {} if score is None else {"score": score, "step": 10 * number, "training_seconds": 2.0}
        said = {"tags": ("paper", "a%b") if name == "a" else ("papers",), "notes": "of July" if name == "b" else ""}
        optimizer = "lamb" if name == "d" else "sgd"
        settings = {"optimizer": optimizer, "global_batch_size": batch, "learning_rate": rate, "momentum": momentum, "seed": number}
        times = {"created_at_s": 1000.0 + number, "started_at_s": 1000.0, "ended_at_s": 1000.0 + 7 * number}
        owner, project, outcome = "ann" if name in "abc" else "bob", "vision" if name in "cd" else None, "reached" if score else None
        job = Job.model_validate(
            {"id": name, "kind": Kind.RUN, "name": f"Run {name}", "recipe": None, "cpus": 1.0, "gpus": 0, "owner": owner, "project": project,
             "outcome": outcome, "progress": progress, **said, **settings, **times}
        )  # fmt: skip
        store.accept(job, None, "", 10)
    full = store.find("e")
    assert full is not None
    store.note(full, progress={"global_batch_size": 1437})
    return store


def ids(store: Store, *where: str, **more: object) -> str:
    return "".join(job.id for job in store.page(Kind.RUN, where=where, **more).jobs)


def test_conditions(five: Store) -> None:
    for where, expected in (
        (["batch>=256"], "edc"), (["batch=1437"], "e"), (["batch<64"], "a"), (["rate<=0.2"], "ba"), (["momentum=0"], "d"), (["momentum!=0.9"], "ed"),
        (["score>0.9"], "dcb"), (["outcome=reached", "optimizer=sgd", "batch>32"], "cb"), (["optimizer!=sgd"], "d"), (["tag=paper"], "a"),
        (["tag!=paper"], "edcb"), (["tag=a%b"], "a"), (["tag=a_b"], ""), (["owner=bob"], "ed"),
        (["steps=20"], "c"), (["duration>20"], "ed"), (["seed=0"], "a"),
        (["project=vision"], "dc"), (["state=queued"], "edcba"), (["project!=vision"], "eba"),
    ):  # fmt: skip
        assert ids(five, *where) == expected, where
        assert five.page(Kind.RUN, where=where, limit=1, counts=True).total == len(expected)
    assert ids(five, text="july") == "b"
    assert ids(five, text="run C") == "c"


@pytest.mark.parametrize(
    ("where", "told"),
    [("batch", "no condition"), ("bach=3", "Did you mean batch"), ("batch=many", "batch is a number"), ("batch>nan", "is a number"),
     ("owner>ann", "has no order"), ("score>1e400", "is a number"), ("=3", "no condition")],
)  # fmt: skip
def test_what_is_no_condition_is_told_in_words(store: Store, where: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        store.page(Kind.RUN, where=[where])


def test_sorts_put_what_has_none_last(five: Store) -> None:
    assert ids(five, sort="-score") == "cbdae"
    assert ids(five, sort="score") == "adbce"
    assert ids(five, sort="batch") == "abcde", "a full batch by what it came to"
    assert ids(five, sort="momentum") == "dcbae"
    assert ids(five, sort="-duration") == "edcba"
    assert ids(five, sort="owner") == "cbaed"
    page = five.page(Kind.RUN, sort="-score", limit=2, state=State.QUEUED, counts=True)
    assert (ids(five, sort="-score", limit=2, cursor=page.next_cursor), page.total) == ("da", 5)
    for sort, told in (("scores", "Did you mean"), ("tag", "nothing that lists are sorted by")):
        with pytest.raises(InputError, match=told):
            five.page(Kind.RUN, sort=sort)
    with pytest.raises(InputError, match="cursor"):
        five.page(Kind.RUN, sort="score", cursor="1000.0~a")


def test_people_see_their_own_and_what_is_shared_with_them(five: Store) -> None:
    assert ids(five, sight=Sight("ann")) == "cba"
    assert ids(five, sight=Sight("ann", "vision")) == "dcba"
    assert ids(five, sight=Sight("eve", "vision")) == "dc"
    assert ids(five, "owner=bob", sight=Sight("ann", "vision")) == "d"
    assert five.page(Kind.RUN, sight=Sight("eve", "speech"), counts=True).total == 0


def test_a_search_box_holds_words_and_conditions() -> None:
    assert read_search("lamb batch>=256 of July tag=x") == (["batch>=256", "tag=x"], "lamb of July")
    assert read_search("lamb batch >= 256 of July tag= x") == (["batch>=256", "tag=x"], "lamb of July")
    assert read_search("a=b <>") == ([], "a=b <>"), "which no field is"
