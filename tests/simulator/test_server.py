"""The simulator over a real socket."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import anthropic
import httpx2
import pytest

from sessions.simulator import Engine, Fault, Latency, Transport, filler, serving
from sessions.simulator.doors.server import is_called_by
from tests.simulator.conftest import TurnedClock

HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01", "content-type": "application/json"}


async def test_the_sdk_and_a_bare_client_share_one_engine(ask) -> None:
    engine = Engine()
    async with serving(engine) as url, httpx2.AsyncClient(base_url=url) as bare:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=url) as sdk:
            system: Any = [{"type": "text", "text": filler(1000), "cache_control": {"type": "ephemeral"}}]
            async with sdk.messages.stream(**ask, system=system) as stream:
                first = await stream.get_final_message()
        second = (await bare.post("/v1/messages", headers=HEADERS, json={**ask, "system": system})).json()
        assert first.usage.cache_creation_input_tokens == 1000
        assert second["usage"]["cache_read_input_tokens"] == 1000
        bill = (await bare.get("/_simulator/bill")).json()
        assert (bill["cache_read"], bill["cache_write_5m"], bill["charged"]) == (1000, 1000, 2)
        rows = (await bare.get("/_simulator/requests")).json()
        assert [row["state"] for row in rows] == ["complete", "complete"]
        assert rows[1]["usage"]["cache_read"] == 1000
        assert (await bare.post("/_simulator/evict")).json() == {"evicted": 1}
        assert (await bare.get("/v1/models/claude-opus-5")).json()["max_tokens"] == 128_000
        counted = await bare.post("/v1/messages/count_tokens", headers=HEADERS, json={**ask, "max_tokens": 5})
        assert counted.json()["input_tokens"] > 0


async def test_both_doors_send_the_same_bytes(ask) -> None:
    async def answers(bare: httpx2.AsyncClient) -> list[Any]:
        request = {"custom_id": "a", "params": ask}
        given = [
            await bare.post("/v1/messages", json=ask),
            await bare.post("/v1/messages", json={**ask, "stream": True}),
            await bare.post("/v1/messages/count_tokens", json=ask),
            await bare.post("/v1/messages", json={**ask, "temperature": "é"}),
            await bare.post("/v1/messages", content=b"["),
            await bare.post("/v1/complete", json=ask),
            await bare.get("/v1/models"),
            await bare.post("/v1/messages/batches", json={"requests": [request]}),
        ]
        given.append(await bare.get(f"/v1/messages/batches/{given[-1].json()['id']}/results"))
        names = ("request-id", "content-type", "content-length", "cache-control", "anthropic-organization-id")
        return [(got.status_code, got.content, [got.headers.get(name) for name in names]) for got in given]

    ask = {**ask, "messages": [{"role": "user", "content": "Ärger"}]}
    clock = TurnedClock()
    async with (
        serving(Engine(), clock=clock) as url,
        httpx2.AsyncClient(base_url=url, headers=HEADERS) as over_http,
        httpx2.AsyncClient(base_url=url, headers=HEADERS, transport=Transport(Engine(), clock=clock)) as beneath,
    ):
        served, direct = await answers(over_http), await answers(beneath)
    assert served == direct
    assert [status for status, _, _ in served] == [200, 200, 200, 400, 400, 404, 200, 200, 200]


async def test_errors_come_as_the_api_sends_them(ask) -> None:
    async with serving() as url, httpx2.AsyncClient(base_url=url) as bare:
        for content, status, text in (
            (b"{", 400, "not valid JSON"),
            (b"[]", 400, "valid dictionary"),
            (b"x" * (32 * 1024 * 1024 + 1), 413, "Request exceeds the maximum size"),
        ):
            response = await bare.post("/v1/messages", headers=HEADERS, content=content)
            assert response.status_code == status
            assert text in response.json()["error"]["message"]
            assert response.json()["request_id"] == response.headers["request-id"]
        assert (await bare.post("/v1/messages", json=ask)).status_code == 401
        assert (await bare.post("/v1/complete", headers=HEADERS, json=ask)).status_code == 404
        assert (await bare.get("/nothing")).status_code == 404


async def test_what_is_no_request_of_the_api_is_refused_in_its_own_envelope(ask) -> None:
    engine = Engine()
    async with serving(engine) as url, httpx2.AsyncClient(base_url=url, headers=HEADERS) as bare:
        plain = {"content-type": "text/plain"}
        for method, path, options, status, text in (
            ("POST", "/v1/messages", {"content": b"{}", "headers": plain}, 400, "expected application/json"),
            ("POST", "/v1/messages", {"content": b"[" * 100_000}, 400, "not valid JSON: nested too deeply"),
            ("POST", "/v1/messages", {"content": b"\xff"}, 400, "not valid JSON"),
            ("POST", "/v1/messages", {"content": b"5"}, 400, "valid dictionary"),
            ("GET", "/v1/messages", {}, 405, "Method Not Allowed"),
            ("PUT", "/v1/messages", {"json": ask}, 405, "Method Not Allowed"),
            ("DELETE", "/v1/messages/count_tokens", {}, 405, "Method Not Allowed"),
            ("POST", "/v1/models", {"json": {}}, 405, "Method Not Allowed"),
            ("GET", "/v1/modelsandmore", {}, 404, "Not Found"),
            ("GET", "/nothing", {}, 404, "Not Found"),
            ("POST", "/v1/messages", {"json": ask, "headers": {"x-api-key": ""}}, 401, "x-api-key"),
        ):
            response = await bare.request(method, path, **options)
            found = response.json()
            assert (response.status_code, found["type"]) == (status, "error"), found
            assert text in found["error"]["message"]
            assert found["request_id"] == response.headers["request-id"]
        assert engine.bill().charged == 0


async def test_a_body_beyond_the_limit_is_not_kept(ask) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b" " * (1 << 20)

    async with serving() as url, httpx2.AsyncClient(base_url=url, headers=HEADERS, timeout=60) as bare:
        tracemalloc.start()
        try:
            response = await bare.post("/v1/messages", content=endless())
            assert tracemalloc.get_traced_memory()[1] < 45 << 20
        finally:
            tracemalloc.stop()
        assert response.status_code == 413
        assert response.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "203.0.113.1", "localhost.evil.example", "[::"])
async def test_a_name_that_is_made_to_lead_here_is_refused(ask, host: str) -> None:
    engine = Engine()
    async with serving(engine) as url, httpx2.AsyncClient(base_url=url) as bare:
        for method, path in (("GET", "/_simulator/requests"), ("POST", "/v1/messages"), ("POST", "/_simulator/evict")):
            response = await bare.request(method, path, headers={**HEADERS, "host": host}, json=ask)
            assert response.status_code == 403
            assert response.json()["error"]["type"] == "permission_error"
        assert list(engine.requests) == []


def test_who_may_be_called_how() -> None:
    for host in ("localhost", "LOCALHOST:8787", "127.0.0.1:1", "127.9.9.9", "[::1]:8787"):
        assert is_called_by(host, "127.0.0.1")
    assert is_called_by("box.lan:8787", "box.lan")
    assert is_called_by("192.0.2.7:8787", "0.0.0.0")
    assert not is_called_by("box.lan:8787", "0.0.0.0")
    assert not is_called_by("192.0.2.7", "192.0.2.8")


async def test_a_cut_is_a_cut(ask) -> None:
    engine = Engine(faults={0: Fault.cut(4), 1: Fault.drop(), 2: Fault.end(3)})
    async with serving(engine) as url, httpx2.AsyncClient(base_url=url) as bare:
        with pytest.raises(httpx2.RemoteProtocolError):
            await bare.post("/v1/messages", headers=HEADERS, json={**ask, "stream": True})
        with pytest.raises(httpx2.HTTPError):
            await bare.post("/v1/messages", headers=HEADERS, json={**ask, "stream": True})
        response = await bare.post("/v1/messages", headers=HEADERS, json={**ask, "stream": True})
        assert response.text.count("event: ") == 3
    assert [exchange.state for exchange in engine.requests] == ["cut", "failed", "cut"]


async def test_a_client_that_leaves_is_noticed(ask) -> None:
    engine = Engine(lambda request: "word " * 2000)
    async with serving(engine, latency=Latency(per_output_token=0.01)) as url, httpx2.AsyncClient(base_url=url) as bare:
        async with bare.stream("POST", "/v1/messages", headers=HEADERS, json={**ask, "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
        for _ in range(500):
            if engine.requests[0].state != "open":
                break
            await asyncio.sleep(0.01)
        assert engine.requests[0].state == "cut"


async def test_a_taken_port_is_an_os_error() -> None:
    async with serving() as url:
        with pytest.raises(OSError, match="in use"):
            async with serving(port=int(url.rsplit(":", 1)[1])):
                pass
