"""What a hostile client, page or neighbour may try, and what comes of it."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from sessions import ConfigurationError
from sessions.web import Limits, chat_app
from sessions.web.access import is_loopback
from sessions.web.limits import Counts, TooMany
from storage.sql import SQLStore
from tests.sessions.world import answers, call
from tests.turns.acts import Held
from tests.web.world import AGENT, Stream, service

AWAY = ("203.0.113.9", 443)


def _bearer(request: Any) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token if kind == "Bearer" and token.isalnum() else None


def _as(owner: str) -> dict[str, str]:
    return {"authorization": f"Bearer {owner}"}


def _bodies(place: str, call_id: str, entry: str) -> dict[str, Any]:
    """A body for each of the routes that take one."""
    return {
        "/turns": {"id": "m", "content": [{"type": "text", "text": "x"}], "edit": entry},
        "/decisions": {"call_id": call_id, "approve": True},
        "/rewind": {"to": None},
        "": {"title": "mine"},
    }


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the store, call by call."""
    asked: list[str] = []
    for name in ("load", "read", "list", "turn", "turns", "calls", "chain", "delete", "create", "commit", "acquire"):
        ours = getattr(SQLStore, name, None)
        if ours is None:
            continue

        def counted(self: Any, *given: Any, _ours: Any = ours, _name: str = name, **named: Any) -> Any:
            asked.append(_name)
            return _ours(self, *given, **named)

        monkeypatch.setattr(SQLStore, name, counted)
    return asked


def _routes(app: Starlette) -> list[tuple[str, str]]:
    """Every route that names a session."""
    routes = [route for route in app.routes if isinstance(route, Route) and route.path.startswith("/api/sessions/{id}")]
    found = [(method, route.path) for route in routes for method in sorted((route.methods or set()) - {"HEAD"})]
    assert len(found) >= 13
    return found


async def test_nothing_of_anothers_can_be_told_from_nothing(either_store: str, statements: list[str]) -> None:
    script = answers([call("pay", amount=5)])
    async with service(
        either_store, script, authenticate=_bearer, peer=AWAY, base_url="https://chat.example.com"
    ) as place:
        place.http.headers.update(_as("ada"))
        id = await place.create()
        begun = await place.begin(id, "secret words")
        await place.events(begun)
        shown = await place.show(id)
        call_id, entry = shown["pending"][0]["call_id"], shown["entries"][0]["id"]
        before = {**shown, "session": None}
        for method, path in _routes(place.app):
            told = []
            for session, turn, place_ in ((id, begun["turn"], entry), ("nothing", "nothing", "nothing")):
                url = path.format(id=session, turn=turn, entry=place_, place=0)
                body = next((b for end, b in _bodies(id, call_id, entry).items() if path.endswith(end)), {})
                body = {} if path.endswith(("/fork", "/regenerate", "/resume", "/stop")) else body
                statements.clear()
                response = await place.http.request(
                    method, url, headers=_as("mallory"), json=body if method in ("POST", "PATCH") else None
                )
                told.append((response.status_code, response.text, list(statements)))
            assert told[0] == told[1], (method, path)
            assert told[0][0] == 404, (method, path, told)
            assert "secret" not in told[0][1]
        for query in ("before", "search", "parent"):
            response = await place.http.get("/api/sessions", params={query: id}, headers=_as("mallory"))
            assert id not in response.text
        # By a key that names it, by an id in a key, by the ledger.
        made = await place.http.post("/api/sessions", json={"agent": "helper", "key": id}, headers=_as("mallory"))
        assert made.json()["id"] != id
        assert (await place.http.get("/api/spend", headers=_as("mallory"))).json()["total"]["calls"] == 0
        other = await place.http.get("/api/spend?owner=ada", headers=_as("mallory"))
        assert other.status_code == 403
        assert {**await place.show(id), "session": None} == before


async def test_a_turn_that_runs_here_is_told_of_from_memory_and_to_its_owner_alone(
    tmp_path: Path, statements: list[str]
) -> None:
    model = Held()
    async with service(tmp_path, model, authenticate=_bearer, peer=AWAY, base_url="https://chat.example.com") as place:
        place.http.headers.update(_as("ada"))
        begun = await place.begin(await place.create(), "secret words")
        told = []
        for path in ("/" + begun["events"], "/api/sessions/nothing/turns/nothing/events"):
            statements.clear()
            response = await place.http.get(path, headers=_as("mallory"))
            told.append((response.status_code, response.text, list(statements)))
        assert told[0] == told[1]
        assert (told[0][0], told[0][2]) == (404, ["load"])
        statements.clear()
        stream = Stream(place.app, "/" + begun["events"], _as("ada"))
        await stream.until(lambda s: s.events)
        assert (stream.status, statements) == (200, [])
        model.let_go()
        await stream.until(lambda s: s.events[-1]["type"] == "ended")
        await stream.close()


async def test_everybody_is_asked_who_they_are(tmp_path: Path) -> None:
    async with service(tmp_path, authenticate=_bearer, peer=AWAY) as place:
        paths = [("GET", "/api/config"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("POST", "/page/app.js")]
        for method, path in [*paths, *_routes(place.app)]:
            response = await place.http.request(method, path.format(id="x", turn="x", entry="x", place=0), json={})
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["content-type"] == "application/problem+json"
        for path in ("/health", "/ready", "/", "/page/index.html"):
            assert (await place.http.get(path)).status_code == 200
        # What is not quite one of the open paths is not open.
        for path in ("/health/", "/health%2f", "/page/../api/config", "/page/%2e%2e/api/config", "/ready/x", "/Health"):
            assert (await place.http.get(path)).status_code in (401, 404), path


@pytest.mark.parametrize("owner", [None, "", 7, b"ada", True, ["ada"]])
async def test_only_a_name_is_an_owner(tmp_path: Path, owner: Any) -> None:
    async with service(tmp_path, authenticate=lambda request: owner, peer=AWAY) as place:
        await place.get("/api/sessions", 401)


@pytest.mark.parametrize("owner", ["a\0b", "a" * 5000, "\ud800"])
async def test_an_owner_that_no_store_takes_is_no_failure(tmp_path: Path, owner: str) -> None:
    async with service(tmp_path, authenticate=lambda request: owner, peer=AWAY) as place:
        await place.get("/api/sessions", 422)


async def test_who_asks_may_be_found_out_slowly(tmp_path: Path) -> None:
    async def authenticate(request: Any) -> str | None:
        await asyncio.sleep(0)
        return _bearer(request)

    async with service(tmp_path, authenticate=authenticate, peer=AWAY) as place:
        assert (await place.get("/api/config", headers=_as("ada")))["owner"] == "ada"
        config = await place.get("/api/config", headers=_as("ada"))
        assert config["operator"] is False
        await place.get("/api/config", 401)


async def test_operators_see_what_others_spend(tmp_path: Path) -> None:
    async with service(
        tmp_path, authenticate=_bearer, is_operator=lambda owner: owner == "root", peer=AWAY, headers=_as("ada")
    ) as place:
        await place.say(await place.create(), "Hello")
        assert (await place.get("/api/spend?by=owner", headers=_as("root")))["rows"][0]["key"] == "ada"
        assert (await place.get("/api/spend?owner=ada", headers=_as("root")))["total"]["calls"] == 1
        assert (await place.get("/api/spend?owner=bob", headers=_as("root")))["total"]["calls"] == 0
        assert (await place.get("/api/spend?owner=ada"))["total"]["calls"] == 1


# -- pages of others --


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": ""}, {"origin": "http://localhost:81"},
        {"origin": "http://localhost.evil.example"}, {"origin": "http://["}, {"origin": "localhost"},
        {"origin": "http://localhost@evil.example"}, {"origin": "http://evil.example/localhost"},
        {"sec-fetch-site": "cross-site"},
    ],
)  # fmt: skip
async def test_a_page_of_another_origin_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    async with service(tmp_path) as place:
        await place.post("/api/sessions", {"agent": "helper"}, 403, headers=headers)
        if "origin" in headers:
            await place.get("/api/sessions", 403, headers=headers)
        assert (await place.get("/api/sessions"))["sessions"] == []
        ours = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
        await place.post("/api/sessions", {"agent": "helper"}, 201, headers=ours)


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "", "json",
     "text/plain; application/json", "application/jsonp", "application/json-patch+json"],
)  # fmt: skip
async def test_what_a_form_can_send_is_not_taken(tmp_path: Path, kind: str) -> None:
    async with service(tmp_path) as place:
        for path in ("/api/sessions", "/api/sessions/x/turns"):
            response = await place.http.post(path, content=b'{"agent":"helper"}', headers={"content-type": kind})
            assert response.status_code == 415, response.text
        response = await place.http.post("/api/sessions", content=b'{"agent":"helper"}')
        assert response.status_code == 415
        json_ = {"content-type": "Application/JSON; charset=utf-8"}
        response = await place.http.post("/api/sessions", content=b'{"agent":"helper"}', headers=json_)
        assert response.status_code == 201


async def test_no_answer_is_for_other_origins(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        response = await place.http.options(
            "/api/sessions", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
        )
        assert response.status_code == 403
        for path in ("/", "/api/config", "/page/index.html", "/nothing", "/openapi.json", "/api/spend?format=csv"):
            response = await place.http.get(path)
            assert not any(name.startswith("access-control-") for name in response.headers), path
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cache-control"] in ("no-store", "no-cache")
        policy = (await place.http.get("/")).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


# -- this machine only --


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.5", "0.0.0.0", "[::]",
             "localhost@evil.example", "2130706433x", "localhost/x", "[::1", "local host", "169.254.169.254"],
)  # fmt: skip
async def test_a_name_that_points_here_is_not_ours(tmp_path: Path, host: str) -> None:
    async with service(tmp_path) as place:
        for path in ("/", "/api/config", "/health", "/page/index.html"):
            response = await place.http.get(path, headers={"host": host})
            assert response.status_code in (403, 421), (host, path)


async def test_this_machine_is_asked_by_its_own_names(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::ffff:127.0.0.1]"):
            await place.get("/api/config", headers={"host": host})
    for peer in (("::1", 1), ("127.0.0.1", 1), ("::ffff:127.0.0.1", 1)):
        async with service(tmp_path, peer=peer) as place:
            await place.get("/api/config")


@pytest.mark.parametrize("peer", [AWAY, ("10.0.0.1", 1), ("fe80::1%eth0", 1), ("::ffff:10.0.0.1", 1), ("", 0)])
async def test_other_machines_are_not_served_whatever_they_say(tmp_path: Path, peer: tuple[str, int]) -> None:
    forged = {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1", "x-real-ip": "127.0.0.1"}
    async with service(tmp_path, peer=peer) as place:
        await place.get("/api/config", 403, headers=forged)


async def test_without_a_host_nothing_is_answered(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        for host in ("", " ", "\t"):
            status, _ = await _raw(place.app, [], headers={"host": host} if host else {"x": "y"})
            assert status in (403, 421)


async def test_only_the_named_hosts_are_served(tmp_path: Path) -> None:
    async with service(
        tmp_path, authenticate=_bearer, hosts=["Chat.example.com"], peer=AWAY, headers=_as("a")
    ) as place:
        await place.get("/api/config", headers={"host": "chat.example.com"})
        await place.get("/api/config", headers={"host": "CHAT.example.com:8443"})
        await place.get("/api/config", 421, headers={"host": "other.example.com"})
        await place.get("/health", headers={"host": "10.1.2.3:8000"})  # a balancer asks by address
    with pytest.raises(ConfigurationError, match="list"):
        chat = chat_app(place.manager, AGENT, hosts="chat.example.com")
        chat.build_middleware_stack()


def test_what_is_loopback() -> None:
    assert not is_loopback("localhost.")
    assert not is_loopback("0x7f.1")
    assert is_loopback("127.0.0.1")


# -- bodies --


async def _raw(
    app: Any, chunks: list[bytes], *, headers: dict[str, str] | None = None, pause: float = 0.0
) -> tuple[int, int]:
    """Posts a body piece by piece; the status, and how many pieces were taken."""
    given = {"host": "localhost", "content-type": "application/json"} if headers is None else headers
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/api/sessions", "raw_path": b"/api/sessions", "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
    }  # fmt: skip
    taken, status = 0, 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        await asyncio.sleep(pause)
        taken += 1
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": taken < len(chunks)}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    return status, taken


async def test_a_body_that_is_too_large_is_refused_as_it_comes(tmp_path: Path) -> None:
    chunk = b"a" * 65_536
    async with service(tmp_path, limits=Limits(body_bytes=1_000_000)) as place:
        host = {"host": "localhost", "content-type": "application/json"}
        assert await _raw(place.app, [chunk], headers=host | {"content-length": str(100 * 2**20)}) == (413, 0)
        assert await _raw(place.app, [chunk], headers=host | {"content-length": "9" * 400}) == (413, 0)
        for wrong in ("-1", "1.5", "abc", "", "0x10", "1e9", "+1"):
            assert await _raw(place.app, [b"{}"], headers=host | {"content-length": wrong}) == (400, 0)
        tracemalloc.start()
        try:
            status, taken = await _raw(place.app, [chunk] * 1600)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (status, taken) == (413, 16)
        assert peak < 10_000_000
        # A length that is not kept to: as much as is allowed, and no more.
        assert await _raw(place.app, [chunk] * 100, headers=host | {"content-length": "10"}) == (413, 16)


async def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(body_seconds=0.2)) as place:
        async with asyncio.timeout(10):
            status, taken = await _raw(place.app, [b"{"] * 10_000, pause=0.02)
        assert status == 408
        assert taken < 1_000


async def test_nothing_that_is_sent_makes_the_server_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = '{"a":' * 500 + "1" + "}" * 500
    texts = ["\0", "a" * 100_000, "😀" * 70, "\u202e", "../..", "%00", "' OR 1=1 --", "{}", "${jndi:ldap://x}", "\x7f"]
    async with service(tmp_path, answers([call("pay", amount=1)])) as place:
        id = await place.create()
        await place.say(id, "Pay")
        call_id = (await place.show(id))["pending"][0]["call_id"]
        for text in texts:
            for path, body in (
                ("/api/sessions", {"agent": text}), ("/api/sessions", {"agent": "helper", "title": text}),
                ("/api/sessions", {"agent": "helper", "key": text}), (f"/api/sessions/{id}/fork", {"at": text}),
                (f"/api/sessions/{id}/rewind", {"to": text}), (f"/api/sessions/{id}/regenerate", {"turn": text}),
                (f"/api/sessions/{id}/turns", {"id": text, "content": [{"type": "text", "text": " "}]}),
                (f"/api/sessions/{id}/turns", {"id": "x", "edit": text, "content": [{"type": "text", "text": "a"}]}),
                (f"/api/sessions/{id}/decisions", {"call_id": text, "approve": True}),
                (f"/api/sessions/{id}/decisions", {"call_id": call_id + "x", "approve": False, "reason": text}),
            ):  # fmt: skip
                response = await place.http.post(path, json=body)
                assert response.status_code < 500, (path, text[:20], response.text)
            for query in ("search", "before", "state", "limit"):
                assert (await place.http.get("/api/sessions", params={query: text[:20_000]})).status_code < 500, (
                    query,
                    text[:20],
                )
            for query in ("by", "owner", "since", "format"):
                assert (await place.http.get("/api/spend", params={query: text[:20_000]})).status_code < 500
        decisions = [
            b'{"call_id":"%s","approve":true,"input":%s}' % (call_id.encode(), value)
            for value in (
                deep.encode(),
                b'{"\\u0000":1}',
                b'{"a":1e999}',
                b'{"a":"\\ud800"}',
                b'{"a":NaN}',
                b"[]",
                b'"x"',
            )
        ]
        for body_ in decisions:
            response = await place.http.post(
                f"/api/sessions/{id}/decisions", content=body_, headers={"content-type": "application/json"}
            )
            assert response.status_code < 500, (body_[:80], response.text)
        headers = {f"x-{number}": "a" * 1000 for number in range(50)}
        assert (await place.http.get("/api/config", headers=headers)).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- how much --


async def test_a_thousand_streams_of_one_owner_leave_others_alone(tmp_path: Path) -> None:
    model = Held()
    async with service(
        tmp_path, model, authenticate=_bearer, peer=AWAY, limits=Limits(streams=20), headers=_as("ada")
    ) as place:
        begun = await place.begin(await place.create(), "Hello")
        path = "/" + begun["events"]
        streams = [Stream(place.app, path, _as("ada")) for _ in range(1000)]
        for stream in streams:
            await stream.until(lambda s: s.status)
        statuses = [stream.status for stream in streams]
        assert (statuses.count(200), statuses.count(429)) == (20, 980)
        refused = streams[statuses.index(429)]
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        other = await place.http.post("/api/sessions", json={"agent": "helper"}, headers=_as("bob"))
        theirs = await place.http.post(
            f"/api/sessions/{other.json()['id']}/turns",
            json={"id": "m", "content": [{"type": "text", "text": "Hi"}]}, headers=_as("bob"),
        )  # fmt: skip
        stream = Stream(place.app, "/" + theirs.json()["events"], _as("bob"))
        await stream.until(lambda s: s.events)
        assert stream.status == 200
        model.let_go()
        for one in [stream, *streams]:
            await one.close()
        assert (await place.http.get(path)).status_code == 200  # what was counted is given back


async def test_answers_under_way_are_limited_over_all_workers(either_store: str) -> None:
    model = Held()
    limits = Limits(running_turns=3)
    async with (
        service(either_store, model, limits=limits) as place,
        service(either_store, model, limits=limits) as other,
    ):
        ids = [await place.create() for _ in range(8)]
        body = {"id": "m", "content": [{"type": "text", "text": "x"}]}
        responses = await asyncio.gather(*(place.http.post(f"/api/sessions/{id}/turns", json=body) for id in ids))
        statuses = [response.status_code for response in responses]
        assert statuses.count(202) <= 3
        assert set(statuses) == {202, 429}
        for id in ids:
            await place.http.post(f"/api/sessions/{id}/turns", json=body)
        running = (await place.get("/api/sessions", params={"state": "running"}))["sessions"]
        assert len(running) == 3
        idle = next(id for id in ids if id not in [item["id"] for item in running])
        for worker in (place, other):
            problem = await worker.post(f"/api/sessions/{idle}/turns", body, 429)
            assert "answers are under way" in problem["detail"]
        # The same message again is no other turn; those that wait in one conversation count too.
        await other.post(f"/api/sessions/{running[0]['id']}/turns", body, 202)
        for number in range(2):
            await place.begin(running[0]["id"], f"more {number}")
        await other.post(f"/api/sessions/{running[0]['id']}/turns", body | {"id": "n"}, 429)
        model.let_go()


async def test_requests_are_limited_for_each_owner(tmp_path: Path) -> None:
    async with service(
        tmp_path, authenticate=_bearer, peer=AWAY, limits=Limits(requests=5), headers=_as("ada")
    ) as place:
        for _ in range(5):
            await place.get("/api/config")
        response = await place.http.get("/api/config")
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 12
        await place.get("/api/config", headers=_as("bob"))
        await place.get("/health")


def test_requests_come_back_with_time_and_take_no_room() -> None:
    counts = Counts(Limits(requests=60))
    for _ in range(60):
        counts.request("ada", 100.0)
    with pytest.raises(TooMany) as refused:
        counts.request("ada", 100.5)
    assert refused.value.seconds == pytest.approx(0.5)
    counts.request("ada", 101.0)
    with pytest.raises(TooMany):
        counts.request("ada", 101.0)
    for number in range(20_000):
        counts.request(f"owner {number}", 102.0)
    counts.request("owner 19999", 102.0)


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"requests": -1}, {"body_bytes": True}, {"files": "9"}])
def test_limits_are_positive_numbers(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**wrong)


# -- tables --


async def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", 'a",=1', "a\n=1", "plain"]
    owners = iter(names)

    def owner_of(request: Any) -> str:
        return str(request.headers["x-owner"].encode("latin-1").decode("unicode_escape"))

    async with service(tmp_path, authenticate=owner_of, is_operator=lambda owner: True, peer=AWAY) as place:
        for owner in owners:
            headers = {"x-owner": owner.encode("unicode_escape").decode()}
            made = await place.http.post("/api/sessions", json={"agent": "plain"}, headers=headers)
            begun = await place.http.post(
                f"/api/sessions/{made.json()['id']}/turns",
                json={"id": "m", "content": [{"type": "text", "text": "x"}]}, headers=headers,
            )  # fmt: skip
            await place.http.get("/" + begun.json()["events"], headers=headers)
        table = await place.http.get("/api/spend?by=owner&format=csv", headers={"x-owner": "plain"})
        rows = list(csv.reader(io.StringIO(table.text, newline="")))
        assert len(rows) == len(names) + 1
        for row in rows[1:]:
            assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r")), row
        assert "plain" in [row[0] for row in rows]
