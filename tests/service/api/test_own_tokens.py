"""Tokens of one's own: everybody sees, makes and ends theirs, and nobody gets more by it than the token they show."""

import time
from typing import Any

import httpx
import pytest
from servers import Service, new_token

from largebatch.service.db.store import Store
from largebatch.service.db.tokens import MOST_OF_ONES_OWN, ForbiddenError, Tokens, UnauthorizedError

OPTIONS = ("--with-tokens", "--max-running-per-owner", "0")


def person(service: Service, secret: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {secret}"})


def ids(answer: Any) -> set[str]:
    return {token["id"] for token in answer.json()}


def test_by_rest(service: Service) -> None:
    root, bob = (person(service, new_token(service.runs_dir, *options)) for options in (("root", "--scope", "admin"), ("bob",)))
    with person(service, new_token(service.runs_dir, "ann", "--project", "vision", "--days", "10")) as ann, root, bob:
        first = ann.get("/v1/tokens").json()
        assert {token["owner"] for token in first} == {"ann"}
        made = ann.post("/v1/tokens", json={"name": "laptop", "scope": "read"}).json()["token"]
        assert (made["owner"], made["project"], made["made_with"]) == ("ann", "vision", first[0]["id"])
        assert made["expires_at_s"] == first[0]["expires_at_s"]
        assert made["id"] in ids(ann.get("/v1/tokens")) & ids(root.get("/v1/tokens"))
        assert made["id"] not in ids(bob.get("/v1/tokens"))
        for asked, field in (
            ({"scope": "admin"}, "scope"), ({"owner": "bob"}, "owner"), ({"owner": "root", "scope": "admin"}, "owner"),
            ({"project": "main"}, "project"),
            ({"expires_in_s": 11 * 86_400.0}, "expires_in_s"),
        ):  # fmt: skip
            refused = ann.post("/v1/tokens", json=asked)
            assert (refused.status_code, refused.json()["field"]) == (403, field), asked
        assert bob.delete(f"/v1/tokens/{made['id']}").status_code == bob.delete("/v1/tokens/nothing").status_code == 404, "nor that there is one"
        assert ann.delete(f"/v1/tokens/{made['id']}").status_code == 204
        assert ann.delete(f"/v1/tokens/{made['id']}").status_code == 404


def test_by_pages(service: Service) -> None:
    secret = new_token(service.runs_dir, "cleo")
    with httpx.Client(base_url=service.url, headers={"Accept": "text/html"}, follow_redirects=True) as browser:
        browser.post("/login", data={"token": secret})
        page = browser.get("/tokens")
        assert (page.status_code, "Your tokens" in page.text, 'value="admin"' in page.text, 'name="owner"' in page.text) == (200, True, False, False)
        assert '<a href="/tokens"' in browser.get("/runs").text
        made = browser.post("/tokens", data={"name": "at night", "scope": "submit", "owner": "root", "project": "other"})
        assert (made.status_code, "shown only now" in made.text, "at night" in made.text) == (200, True, True)
        assert {token["owner"] for token in browser.get("/v1/tokens").json()} == {"cleo"}, "whatever a form says"
        for data, status in (({"scope": "admin"}, 403), ({"scope": "all"}, 422), ({"days": "-1"}, 422)):
            refused = browser.post("/tokens", data=data)
            assert (refused.status_code, 'role="alert"' in refused.text) == (status, True), data
        newest, mine = (token["id"] for token in browser.get("/v1/tokens").json())
        assert browser.post(f"/tokens/{newest}/revoke").status_code == 200
        assert browser.post(f"/tokens/{mine}/revoke").url.path == "/login", "it was the one that she had signed in with"


def test_no_more_and_no_longer_than_the_one_it_was_made_with(store: Store) -> None:
    tokens = Tokens(store.engine)
    (reads, _), (submits, first), (other, _), (admin, top) = (
        tokens.create(owner, scope) for owner, scope in (("ann", "read"), ("ann", "submit"), ("bob", "submit"), ("ann", "admin"))
    )
    ann = tokens.principal(submits)
    with pytest.raises(ForbiddenError, match="needs the scope submit"):
        tokens.create_own(tokens.principal(reads), "read")
    with pytest.raises(ForbiddenError, match="none with more"):
        tokens.create_own(ann, "admin")
    ends_at_s = time.time() + 60
    short, _ = tokens.create_own(ann, "submit", ends_at_s)
    shorter = tokens.principal(short)
    for longer in (ends_at_s + 1, float("inf")):
        with pytest.raises(ForbiddenError, match="longer than yours"):
            tokens.create_own(shorter, "read", longer)
    last, newest = tokens.create_own(shorter, "read")
    assert (newest.expires_at_s, newest.made_with) == (ends_at_s, shorter.token_id)
    cookie = tokens.open_session(last)

    assert not tokens.revoke(first.id, tokens.principal(other)), "another's"
    assert not tokens.revoke(first.id, tokens.principal(reads)), "of more scope"
    assert not tokens.revoke(top.id, ann)
    assert tokens.revoke(first.id, ann), "one's own, and with it all that was made with it"
    for secret in (submits, short, last):
        with pytest.raises(UnauthorizedError, match="revoked"):
            tokens.principal(secret)
    with pytest.raises(UnauthorizedError):
        tokens.of_session(cookie)
    with pytest.raises(UnauthorizedError, match="revoked"):
        tokens.create_own(ann, "read")  # by a request that was let in before
    tokens.principal(admin), tokens.principal(reads), tokens.principal(other)


def test_nobody_fills_the_table(sqlite_store: Store) -> None:
    tokens = Tokens(sqlite_store.engine)
    ann = tokens.principal(tokens.create("ann", "submit")[0])
    for _ in range(MOST_OF_ONES_OWN - 1):
        tokens.create_own(ann, "read")
    with pytest.raises(ForbiddenError, match="50 valid tokens"):
        tokens.create_own(ann, "read")
