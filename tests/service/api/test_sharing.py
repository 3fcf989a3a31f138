"""People of one project on one service: they read each other's runs, owners change them, and nobody else sees them."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from servers import Service, new_token, serving

PEOPLE = {"ann": ("vision", "submit"), "bob": ("vision", "submit"), "eye": ("vision", "read"), "eve": ("speech", "submit"), "root": ("main", "admin")}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    """One client for each; the service begins no run."""
    options = ("--with-tokens", "--sharing", "--max-running-per-owner", "0")
    with serving(tmp_path_factory.mktemp("shared"), *options) as service, contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(client(service, name, *given)) for name, given in PEOPLE.items()}


def client(service: Service, owner: str, project: str, scope: str) -> httpx.Client:
    token = new_token(service.runs_dir, owner, "--project", project, "--scope", scope)
    return httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {token}"})


def submitted(person: httpx.Client, **more: Any) -> str:
    answer = person.post("/v1/runs", json={"recipe": "digits-lamb", "deadline_s": 3600.0, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def listed(person: httpx.Client, **asked: Any) -> set[str]:
    return {job["id"] for job in person.get("/v1/runs", params=asked).json()["items"]}


def test_a_project_reads_and_its_owner_changes(people: dict[str, httpx.Client]) -> None:
    shared, private = submitted(people["ann"]), submitted(people["ann"], is_private=True)
    for name in ("bob", "eye"):
        assert (shared in listed(people[name]), private in listed(people[name])) == (True, False)
        assert people[name].get(f"/v1/runs/{shared}").json()["owner"] == "ann"
        assert people[name].get(f"/v1/runs/{private}").status_code == 404
    assert shared in listed(people["bob"], owner="ann")
    assert shared not in listed(people["bob"], owner="bob")
    assert not listed(people["eve"]) & {shared, private}
    assert people["eve"].get(f"/v1/runs/{shared}").status_code == 404
    for method, path, body in (("POST", "/cancel", None), ("POST", "/resume", None), ("DELETE", "", None), ("PATCH", "", {"name": "mine"})):
        refused = people["bob"].request(method, f"/v1/runs/{shared}{path}", json=body)
        assert (refused.status_code, refused.json()["problem"]) == (403, "this run is ann's, who alone changes it."), path
        assert people["eve"].request(method, f"/v1/runs/{shared}{path}", json=body).status_code == 404
    assert people["ann"].patch(f"/v1/runs/{shared}", json={"project": None}).json()["project"] is None
    assert people["bob"].get(f"/v1/runs/{shared}").status_code == 404
    assert people["ann"].patch(f"/v1/runs/{shared}", json={"project": "speech"}).status_code == 403, "to whom she does not belong"
    assert people["ann"].patch(f"/v1/runs/{shared}", json={"project": "vision"}).status_code == 200
    assert people["bob"].get(f"/v1/runs/{shared}").status_code == 200
    assert people["root"].patch(f"/v1/runs/{shared}", json={"project": "speech"}).json()["project"] == "speech"


def test_a_colleague_s_run_is_run_again_as_one_s_own(people: dict[str, httpx.Client]) -> None:
    shared = submitted(people["ann"], set={"stop.epochs": 7})
    for person in people.values():
        person.post("/login", data={"token": person.headers["Authorization"].removeprefix("Bearer ")})

    def page(name: str, path: str) -> str:
        return str(people[name].get(path, headers={"Accept": "text/html"}).text)

    again = f"/runs/new?like={shared}"
    assert {name: again in page(name, f"/runs/{shared}") for name in ("ann", "bob", "eye")} == {"ann": True, "bob": True, "eye": False}
    assert 'data-act="delete"' not in page("bob", f"/runs/{shared}")
    assert 'name="stop.epochs" value="7"' in page("bob", again)
    own = people["bob"].post("/runs/new", data={"recipe": "digits-lamb", "stop.epochs": "7", "do": "start"}).headers["Location"]
    assert people["ann"].get(f"/v1{own}").json()["owner"] == "bob"
    assert (page("bob", "/runs").count('data-of="ann"') > 0, 'data-of="bob"' in page("bob", "/runs")) == (True, False)


def test_a_run_again_holds_what_the_first_one_held(people: dict[str, httpx.Client]) -> None:
    people["ann"].post("/login", data={"token": people["ann"].headers["Authorization"].removeprefix("Bearer ")})

    def begun(**held: float) -> str:
        return str(people["ann"].get(f"/runs/new?like={submitted(people['ann'], **held)}", headers={"Accept": "text/html"}).text)

    assert re.search(r'name="memory_gib" value="0.75"', begun(memory_gib=0.75))
    assert re.search(r'name="memory_gib" value=""', begun()), "what nobody asked for is left to what is usual"


def test_a_name_tags_and_notes(people: dict[str, httpx.Client]) -> None:
    job_id = submitted(people["ann"], tags=["a", "a", "b"], notes="first")
    said = people["ann"].patch(f"/v1/runs/{job_id}", json={"name": " Größe 7, the best ", "tags": ["paper"]}).json()
    assert (said["name"], said["tags"], said["notes"], said["id"]) == ("Größe 7, the best", ["paper"], "first", job_id)
    assert listed(people["ann"], where="tag=paper") == {job_id}
    assert listed(people["ann"], q="größe 7") in ({job_id}, set()), "SQLite knows upper and lower case of ASCII alone"
    for changed, field in (
        ({"name": ""}, "name"), ({"name": "x" * 101}, "name"), ({"name": "a\nb"}, "name"), ({"tags": ["a b"]}, "tags"),
        ({"tags": ["t"] * 21}, "tags"), ({"tags": ["\x1bc"]}, "tags"),
        ({"notes": "x" * 2001}, "notes"), ({"owner": "bob"}, "owner"), ({"tags": "ab"}, "tags"),
    ):  # fmt: skip
        refused = people["ann"].patch(f"/v1/runs/{job_id}", json=changed)
        assert (refused.status_code, refused.json()["field"]) == (422, field), changed
        assert "pattern" not in refused.text
    assert people["ann"].patch(f"/v1/runs/{job_id}", json={}).json()["name"] == "Größe 7, the best"


def test_the_cluster_says_who_waits_for_what_and_of_strangers_only_what(people: dict[str, httpx.Client]) -> None:
    job_id = submitted(people["ann"], cpus=1.0)
    mine = next(one for one in people["bob"].get("/v1/cluster").json()["queue"] if one["id"] == job_id)
    assert (mine["owner"], mine["cpus"], mine["why"]) == ("ann", 1.0, "nothing is begun just now, as the operator set it")
    told = people["eve"].get("/v1/cluster").json()
    strangers = [one for one in told["queue"] if one["id"] is None]
    assert (len(strangers) > 0, {one["owner"] for one in strangers}, job_id in str(told)) == (True, {None}, False)
    assert (len(told["machines"]), told["machines"][0]["cpus"]) == (1, told["cpus"])


def test_who_i_am(people: dict[str, httpx.Client]) -> None:
    assert people["eve"].get("/v1/me").json() == {"owner": "eve", "scope": "submit", "project": "speech", "is_sharing": True}
    made = people["root"].post("/v1/tokens", json={"owner": "fay", "name": "laptop", "project": "vision"}).json()["token"]
    assert (made["name"], made["project"]) == ("laptop", "vision")
    assert people["root"].post("/v1/tokens", json={"owner": "fay", "project": "a b"}).json()["field"] == "project"
