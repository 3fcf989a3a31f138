"""What strangers, neighbours and foreign pages may not do."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import not_served
from servers import SECRET, Service, new_token
from small_runs import wait_for

from largebatch.jobs.errors import SpecError
from largebatch.jobs.spec.read import read_spec
from largebatch.service.api.requests import refuse_for_strangers
from largebatch.service.settings import Settings
from largebatch.tuning.sweep.space import with_fields

IDLE = {"recipe": "digits-small-batch", "deadline_s": 0.001}


OPTIONS = ("--with-tokens", "--max-running-per-owner", "0")


@pytest.fixture(scope="module")
def guarded(service: Service) -> Service:
    return service


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def people(guarded: Service) -> dict[str, dict[str, str]]:
    """Headers of an administrator, two who submit, and one who reads."""
    given = {"root": ("root", "admin"), "ann": ("ann", "submit"), "bob": ("bob", "submit"), "eye": ("ann", "read")}
    return {name: bearer(new_token(guarded.runs_dir, owner, "--scope", scope)) for name, (owner, scope) in given.items()}


@pytest.fixture(scope="module")
def anns(guarded: Service, people: dict[str, dict[str, str]]) -> str:
    """A run of hers, which waits: this service begins none."""
    answer = httpx.post(f"{guarded.url}/v1/runs", json={"recipe": "digits-lamb", "deadline_s": 3600.0}, headers=people["ann"])
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_priority_above_0_goes_before_other_owners_where_an_administrator_gave_it_alone(
    guarded: Service, people: dict[str, dict[str, str]]
) -> None:
    with httpx.Client(base_url=guarded.url) as http:

        def submit(who: str, **asked: Any) -> str:
            answer = http.post("/v1/runs", json={"recipe": "digits-lamb", "cpus": 0.25, **asked}, headers=people[who])
            assert (answer.status_code, answer.json()["priority"]) == (202, asked.get("priority", 0)), answer.text
            return str(answer.json()["id"])

        humble, first = submit("ann", priority=-1), submit("ann")
        bobs, urgent_to_bob, admins = submit("bob"), submit("bob", priority=100), submit("root", priority=1)
        asked = {"sweep": {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32]}}, "cpus": 1.0, "priority": 2}
        sweep = str(http.post("/v1/sweeps", json=asked, headers=people["root"]).json()["id"])
        ours = {humble, first, bobs, urgent_to_bob, admins, sweep}
        queue = [job["id"] for job in http.get("/v1/cluster", headers=people["root"]).json()["queue"] if job["id"] in ours]
        assert queue[:2] == [sweep, admins], "an administrator's, the higher first"
        assert queue[-1] == humble, "behind everybody's"
        assert queue.index(first) < queue.index(urgent_to_bob) < queue.index(bobs), "ann was first; among his own jobs bob's urgent one is"
        for job_id in ours:
            kind = "sweeps" if job_id == sweep else "runs"
            assert http.post(f"/v1/{kind}/{job_id}/cancel", headers=people["root"]).status_code < 300


def all_paths(job_id: str) -> list[tuple[str, str]]:
    runs = [("GET", f"/v1/runs/{job_id}{rest}") for rest in ("", "/records", "/series", "/events", "/logs", "/artifacts", "/artifacts/spec.json")]
    acts = [("POST", f"/v1/runs/{job_id}/cancel"), ("POST", f"/v1/runs/{job_id}/resume"), ("DELETE", f"/v1/runs/{job_id}")]
    return [*runs, *acts]


def test_everything_but_health_needs_a_token(guarded: Service) -> None:
    with httpx.Client(base_url=guarded.url) as http:

        def answered(*request: Any, **more: Any) -> httpx.Response:
            """Who shows no valid token may ask so often a second and no more."""
            while (answer := http.request(*request, **more)).status_code == 429:
                time.sleep(0.1)
            return answer

        described = http.get("/openapi.json").json()["paths"]
        open_ones = set()
        for path, methods in described.items():
            for method in methods:
                answer = answered(method, path.replace("{", "").replace("}", ""), json={} if method in {"post", "put"} else None)
                if answer.status_code != 401:
                    open_ones.add(path)
                else:
                    assert answer.headers["www-authenticate"] == "Bearer"
        assert open_ones == {"/healthz", "/readyz"}
        for secret in ("x", "lb_" + "a" * 43, "é"):
            for query in ("", "?limit=many"):
                assert answered("GET", f"/v1/runs{query}", headers={"Authorization": f"Bearer {secret}".encode()}).status_code == 401


def test_scopes(guarded: Service, people: dict[str, dict[str, str]], anns: str) -> None:
    assert httpx.post(f"{guarded.url}/v1/runs", json=IDLE, headers=people["eye"]).status_code == 403
    assert httpx.get(f"{guarded.url}/v1/runs/{anns}", headers=people["eye"]).status_code == 200, "reading one's own"
    assert httpx.post(f"{guarded.url}/v1/runs/{anns}/cancel", headers=people["eye"]).status_code == 403
    assert httpx.post(f"{guarded.url}/v1/tokens", json={"scope": "read"}, headers=people["eye"]).status_code == 403


def test_other_owners_runs_are_not_there(guarded: Service, people: dict[str, dict[str, str]], anns: str) -> None:
    for method, path in all_paths(anns):
        mine = httpx.request(method, guarded.url + path, headers=people["bob"])
        none = httpx.request(method, guarded.url + path.replace(anns, "nothing"), headers=people["bob"])
        assert mine.status_code == none.status_code == 404, path
    assert httpx.get(f"{guarded.url}/v1/runs", headers=people["bob"], params={"owner": "ann"}).json()["items"] == []
    assert anns in httpx.get(f"{guarded.url}/v1/runs", headers=people["root"]).text
    assert httpx.get(f"{guarded.url}/v1/runs/{anns}", headers=people["root"]).status_code == 200


def test_tokens_are_shown_once_expire_and_end(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    made = httpx.post(f"{guarded.url}/v1/tokens", json={"owner": "carl", "scope": "read"}, headers=people["root"]).json()
    mine = bearer(made["secret"])
    assert httpx.get(f"{guarded.url}/v1/runs", headers=mine).status_code == 200
    listed = httpx.get(f"{guarded.url}/v1/tokens", headers=people["root"]).text
    assert made["token"]["id"] in listed
    assert made["secret"] not in listed
    assert made["secret"].encode() not in (guarded.runs_dir / "service.sqlite").read_bytes()
    assert httpx.delete(f"{guarded.url}/v1/tokens/{made['token']['id']}", headers=people["root"]).status_code == 204
    assert "revoked" in httpx.get(f"{guarded.url}/v1/runs", headers=mine).json()["detail"]
    asked = {"owner": "dora", "scope": "read", "expires_in_s": 1.0}
    short = bearer(httpx.post(f"{guarded.url}/v1/tokens", json=asked, headers=people["root"]).json()["secret"])
    wait_for(lambda: httpx.get(f"{guarded.url}/v1/runs", headers=short).status_code != 200, 20)
    assert "expired" in httpx.get(f"{guarded.url}/v1/runs", headers=short).json()["detail"]


def is_open(connection: socket.socket) -> bool:
    """Whether the other side still holds it, after whatever it has sent."""
    connection.settimeout(0.2)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return True
    return False


def test_streams_end_with_the_token_they_were_opened_with(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    def made(owner: str, **parts: Any) -> Any:
        return httpx.post(f"{guarded.url}/v1/tokens", json={"owner": owner, "scope": "read", **parts}, headers=people["root"]).json()

    def ended_at_s(headers: dict[str, str]) -> float:
        """When a stream of everything ends."""
        with httpx.stream("GET", f"{guarded.url}/v1/events", headers=headers, timeout=30) as answer:
            assert answer.status_code == 200
            opened.release()
            for _ in answer.iter_raw():
                pass
        return time.monotonic()

    opened = threading.Semaphore(0)
    made_at_s = time.monotonic()
    revoked, short = made("carl"), made("dora", expires_in_s=2.0)
    with httpx.Client(base_url=guarded.url) as browser:
        browser.post("/login", data={"token": revoked["secret"]})
        session = {"Cookie": f"largebatch_session={browser.cookies['largebatch_session']}"}
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as stays, ThreadPoolExecutor(3) as pool:
        asked = f"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: {people['ann']['Authorization']}\r\n\r\n"
        stays.sendall(asked.encode())
        assert stays.recv(15).split()[1] == b"200"
        expires, *end = [pool.submit(ended_at_s, headers) for headers in (bearer(short["secret"]), bearer(revoked["secret"]), session)]
        assert all(opened.acquire(timeout=20) for _ in range(3))
        before_s = time.monotonic()
        httpx.delete(f"{guarded.url}/v1/tokens/{revoked['token']['id']}", headers=people["root"])
        assert made_at_s + 1.0 <= expires.result() < made_at_s + 2.0 + 10.0
        assert all(before_s < one.result() < before_s + 10 for one in end)
        assert is_open(stays), "others go on"


def test_pages_need_a_session_and_foreign_ones_change_nothing(guarded: Service, people: dict[str, dict[str, str]], anns: str) -> None:
    secret = people["ann"]["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=guarded.url, headers={"Accept": "text/html"}) as browser:
        assert browser.get("/runs").headers["location"] == "/login"
        assert browser.get("/runs?q=x").headers["location"] == "/login?next=%2Fruns%3Fq%3Dx"
        assert browser.post("/login", data={"token": "lb_wrong"}).status_code == 401
        foreign = {"Origin": "http://evil.example"}
        assert browser.post("/login", data={"token": secret}, headers=foreign).status_code == 403
        for elsewhere in ("https://evil.example", "//evil.example/x", "/\\evil.example", "javascript:alert(1)", "runs", "/\n/evil.example"):
            answer = browser.post("/login", data={"token": secret, "next": elsewhere})
            assert answer.headers["location"] == "/runs", elsewhere
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert secret not in answer.headers["set-cookie"], "the cookie is not the token"
        assert browser.get("/runs").status_code == 200
        strange: list[dict[str, str]] = [foreign, {"Origin": "null"}, *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site"))]
        for headers in strange:
            assert browser.post(f"/v1/runs/{anns}/cancel", headers=headers).status_code == 403
        behind_a_proxy = {"Sec-Fetch-Site": "same-origin", "Origin": "https://largebatch.example"}
        assert browser.post(f"/v1/runs/{anns}/cancel", headers=behind_a_proxy).status_code == 202, "which sends on another Host"
        assert browser.post("/logout").headers["location"] == "/login"
        assert browser.get("/runs").status_code == 303
        browser.cookies.set("largebatch_session", "made-up")
        assert browser.get("/runs").status_code == 303


def test_headers_on_every_answer(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    for path in ("/login", "/v1/runs", "/healthz", "/nothing", "/static/0/page.js"):
        answer = httpx.get(guarded.url + path, headers=people["ann"])
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe-inline" not in answer.headers["content-security-policy"].split("script-src")[1].split(";")[0]
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "same-origin")
        assert "server" not in answer.headers


def test_a_browser_keeps_what_pages_load_until_another_version_has_others(guarded: Service) -> None:
    own = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', httpx.get(f"{guarded.url}/login").text))
    assert {address.rpartition("/")[2] for address in own} == {"icon.svg", "page.css", "page.js"}
    root = min(own).rpartition("/")[0]
    for address in (*own, f"{root}/talk.js", f"{root}/plotly.js", f"{root}/card/card.css"):
        kept, other = (httpx.get(guarded.url + path) for path in (address, address.replace(root, "/static/0")))
        assert "immutable" in kept.headers["cache-control"]
        assert other.headers["cache-control"] == "no-store", "a page of another version"
        assert len(kept.content) > 100
        assert kept.content == other.content
        assert kept.headers["content-type"].split(";")[0] in {"text/css", "text/javascript", "application/javascript", "image/svg+xml"}
    for missing in ("/static/page.js", f"{root}/nothing.js", f"{root}/%2e%2e/templates/base.html", f"{root}//etc/passwd"):
        assert httpx.get(guarded.url + missing).status_code == 404


def test_beyond_loopback_it_wants_a_token_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = not_served(capsys, "--host", "0.0.0.0", "--port", "0", "--runs-dir", tmp_path / "runs")
    assert code == 2
    assert "reached by others, and there is no token" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"recipe": NaN}', b'{"recipe": "digits-lamb", "set": {"seed": 1e999}}',
        b'{"recipe": "digits-lamb", "set": {"learning_rate.base": Infinity}}', b'{"recipe": "digits-lamb", "set": {"seed": ' + b"9" * 5000 + b"}}",
        b'{"spec": ' + b'{"a": ' * 2000 + b"1" + b"}" * 2000 + b"}", b"[" * 100_000, b'{"recipe": "' + b"x" * 900_000 + b'"}',
        b'{"recipe": "digits-lamb", "set": {"a.b": {}, "": 1}}', b'{"recipe": "digits-lamb", "set": {"name": "\\u0000"}}',
        b'{"recipe": "digits-lamb", "set": {"name": "\\ud800"}}', b'{"recipe": "digits-lamb", "set": {"description": "\\ud800"}}',
    ],
    ids=range(16),
)  # fmt: skip
def test_no_body_breaks_it(guarded: Service, people: dict[str, dict[str, str]], body: bytes) -> None:
    for path in ("/v1/runs", "/v1/sweeps", "/v1/tokens"):
        headers = {**people["root"], "Content-Type": "application/json"}
        answer = httpx.post(guarded.url + path, content=body, headers=headers, timeout=30)
        assert 400 <= answer.status_code < 500, answer.text[:500]
        assert answer.headers["content-type"] == "application/problem+json"


def test_too_large_a_body_is_not_read(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    for content in (b"x" * 3_000_000, chunks()):
        try:
            answer = httpx.post(f"{guarded.url}/v1/runs", content=content, headers=people["ann"])
        except httpx.WriteError:
            continue  # cut off while sending, which is as good
        assert answer.status_code == 413


def test_weights_lie_in_the_data_folder_and_of_others_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer whether a file elsewhere is there or not; also for one beside the service, where a job would look for it."""
    data_dir, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for file in (data_dir / "sub" / "own.pt", elsewhere / "there.pt"):
        file.parent.mkdir(parents=True)
        file.touch()
    (data_dir / "link.pt").symlink_to(elsewhere / "there.pt")
    monkeypatch.chdir(elsewhere)
    settings, spec = Settings(data_dir=data_dir), read_spec("digits-lamb")

    def told(weights: str) -> str:
        try:
            refuse_for_strangers(with_fields(spec, {"model.weights": weights}), settings)
        except SpecError as error:
            return str(error)
        return ""

    assert told("sub/own.pt") == told(str(data_dir / "sub" / "own.pt")) == ""
    outside = [*(str(elsewhere / name) for name in ("there.pt", "gone.pt")), "../elsewhere/there.pt", "there.pt", "gone.pt", "link.pt", "x\0.pt"]
    assert {told(weights) for weights in outside} == {"model.weights: is not a file inside the server's data folder. Give a path relative to it."}


def test_sweeps_without_end_are_refused(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    huge = {"recipe": "digits-lamb", "each": {f"field{n}": list(range(100)) for n in range(20)}}
    foreign = {"recipe": "/etc/passwd"}
    code = {"recipe": "digits-lamb", "each": {"model.entry_point": ["os:system"], "model.name": [None]}}
    searched = {"recipe": "digits-lamb", "search": {"method": "random", "trials": 2, "space": {"dataset.arguments.path": ["/etc", "/root"]}}}
    away = {"recipe": "digits-lamb", "name": "../../up"}
    grid = {"recipe": "digits-lamb", "search": {"space": {"learning_rate.base": {"low": 0.1, "high": 1.0, "points": 10**9}}}}
    many = {"recipe": "digits-lamb", "search": {"method": "random", "trials": 1, "space": {"optimizer.weight_decay": [0.1] * 2_000}}}
    text = {"recipe": "digits-small-batch", "each": {"optimizer.momentum": ["x"]},
            "search": {"trials": 2, "space": {"learning_rate.base": {"low": 0.1, "high": 1.0, "is_effective": True}}}}  # fmt: skip
    steep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [1, 2]},
             "search": {"trials": 2, "space": {"learning_rate.base": {"low": 0.1, "high": 1.0, "times_batch": 1e6}}}}  # fmt: skip
    named = {"recipe": "digits-lamb", "each": {"optimizer": ["sgd", "os:system"], "batch.global_batch_size": [32]}}
    rates = {"learning_rate.base": [0.1]}
    own = {**named, "search": {"trials": 1, "space": rates}}
    hidden = {"recipe": "digits-lamb", "each": {"optimizer": ["sgd"], "batch.global_batch_size": [32]},
              "search": {"trials": 1, "by_optimizer": {"sgd": {"optimizer.entry_point": ["os:system"], **rates}}}}  # fmt: skip
    whole = {"recipe": "digits-lamb", "search": {"trials": 1, "space": {"optimizer": [{"entry_point": "os:system"}]}}}
    owned = ((own, "entry points"), (hidden, "may not change optimizer.entry_point"), (whole, "may not change optimizer"))
    more = (*owned, (away, "cannot name a job"), (grid, "points"), (many, "list of more than"), (text, ""), (steep, ""))
    for sweep, words in (*more, (huge, "runs are more"), (foreign, "is not a recipe"), (code, "entry points"), (searched, "may not change dataset")):
        answer = httpx.post(f"{guarded.url}/v1/sweeps", json={"sweep": sweep}, headers=people["ann"])
        assert answer.status_code == 422
        assert words in answer.json()["detail"]


def test_no_secret_is_ever_written(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    secrets = [SECRET, *(given["Authorization"].removeprefix("Bearer ") for given in people.values())]
    written: list[Any] = [guarded.log, *(path.read_bytes().decode(errors="replace") for path in guarded.runs_dir.rglob("*") if path.is_file())]
    for text in written:
        for secret in secrets:
            assert secret not in text


def test_what_a_run_prints_and_is_called_is_escaped(guarded: Service, people: dict[str, dict[str, str]]) -> None:
    asked = {"recipe": "digits-lamb", "deadline_s": 0.001, "set": {"description": "</script><script>alert(1)</script>"}}
    job = httpx.post(f"{guarded.url}/v1/runs", json=asked, headers=people["root"]).json()
    with httpx.Client(base_url=guarded.url, headers={"Accept": "text/html"}) as browser:
        browser.post("/login", data={"token": people["root"]["Authorization"].removeprefix("Bearer ")})
        page = browser.get(f"/runs/{job['id']}").text
    assert job["id"] in page
    assert "alert(1)" in page
    assert "<script>alert" not in page
