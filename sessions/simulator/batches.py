"""Message Batches: requests that wait, are answered together at half price, and leave their results in a file.

Rules of the batch-processing page (2026): a request that is refused, expires or is canceled is an item of the results
and is not charged; parameters are validated when the batch is processed, not when it is made; results stay 29 days.
All requests of one batch start at the same moment: what none of them has written yet, each of them writes.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from sessions.simulator.batch import ARCHIVED, ITEM, ROOT, Batch
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.checks.shapes import EXTRA, array, obj, refuse, string
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange, HttpRequest

LARGEST = 256 * 1024 * 1024
"""Bytes of a batch (batch-processing page, 2026)."""
REQUESTS = 100_000
"""Requests of a batch."""
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SPOILS = frozenset({"repeated_id", "unoffered", "not_object"})
"""Faults that change what a reply says; any other one leaves a batched request without a reply."""


class Batches:
    """What happens to the batches that an engine keeps; it holds nothing itself.

    `process` must be awaited before each request, so that what is due has happened.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- processing --

    async def process(self, now: float) -> None:
        """Ends every batch whose time has come, in the order of their times."""
        waiting = [batch for batch in self._engine.batches.values() if batch.ended is None and not batch.is_running]
        for batch in sorted(waiting, key=lambda batch: batch.next_event):
            if batch.next_event <= now and batch.ended is None and not batch.is_running:
                await self._end(batch)

    async def _end(self, batch: Batch) -> None:
        batch.is_running, moment = True, batch.next_event
        if batch.canceled is not None and moment >= batch.canceled:
            batch.results = [_result(request, {"type": "canceled"}) for request in batch.requests]
        elif moment < batch.due:
            batch.results = [_result(request, {"type": "expired"}) for request in batch.requests]
        else:
            batch.results = await self._answered(batch)
        batch.results.reverse()  # results are not promised in the order of the requests
        batch.ended, batch.is_running = moment, False

    async def _answered(self, batch: Batch) -> list[dict[str, Any]]:
        """The results of all requests: received together, then asked, then begun and ended together."""
        engine, due = self._engine, batch.due
        exchanges = [engine.receive(request["params"], batch.headers, due, path=ITEM) for request in batch.requests]
        for exchange in exchanges:
            if exchange.state != "open":
                continue
            answer = engine.ask(exchange)
            engine.answer(exchange, await answer if inspect.isawaitable(answer) else answer)
            if exchange.fault is not None and exchange.fault.kind not in _SPOILS:
                exchange.state = "failed"
        for exchange in exchanges:
            if exchange.state == "open":
                engine.begin(exchange, due)
        for exchange in exchanges:
            engine.end(exchange, due)
        pairs = zip(batch.requests, exchanges, strict=True)
        return [_result(request, _outcome(exchange)) for request, exchange in pairs]

    # -- the routes --

    def receive(self, request: HttpRequest, now: float, *, seconds: float) -> Exchange:
        """Answers one request; a batch made now is processed `seconds` later.

        Never raises: a refused exchange has `status` and `error`.
        """
        exchange = self._engine.visit(request.path, request.headers, now)
        if exchange.state != "open":
            return exchange
        try:
            self._route(exchange, request, seconds)
        except Refusal as refusal:
            self._engine.refuse(exchange, refusal)
            return exchange
        broken = exchange.fault is not None  # it was done, and the answer is lost on its way
        exchange.state, exchange.ended = "failed" if broken else "complete", now
        return exchange

    def _route(self, exchange: Exchange, request: HttpRequest, seconds: float) -> None:
        id, _, action = exchange.path.removeprefix(ROOT).strip("/").partition("/")
        method, scope, now = request.method, (exchange.organization, exchange.workspace), exchange.started
        if not id and method == "GET":
            exchange.result = self._list(scope, request, now)
            return
        batches = self._engine.batches
        batch = self._create(scope, request, now, seconds) if not id and method == "POST" else batches.get(id)
        if batch is None or batch.scope != scope:
            raise Refusal(f"Message batch {id} not found" if id else "Method Not Allowed", status=404 if id else 405)
        if (method, action) == ("POST", "cancel"):
            _cancel(batch, now)
        elif (method, action) == ("GET", "results"):
            exchange.lines = _lines(batch, now)
            return
        elif (method, action) == ("DELETE", ""):
            if batch.ended is None:
                raise Refusal(f"Message batch {id} cannot be deleted while it is in progress: cancel it first")
            del batches[id]
            exchange.result = {"id": id, "type": "message_batch_deleted"}
            return
        elif action or method not in ("GET", "POST"):
            raise Refusal("Not Found", status=404)
        exchange.result = batch.shown(now, request.base_url)

    def _create(self, scope: tuple[str, str], request: HttpRequest, now: float, seconds: float) -> Batch:
        if len(request.raw) > LARGEST:
            raise Refusal("Request exceeds the maximum size", status=413)
        batch = Batch(
            id=self._engine.new_id("msgbatch"),
            scope=scope,
            headers=request.headers,
            requests=_requests(request.raw),
            created=now,
            due=now + seconds,
        )
        self._engine.batches[batch.id] = batch
        return batch

    def _list(self, scope: tuple[str, str], request: HttpRequest, now: float) -> dict[str, Any]:
        asked = {name: values[-1] for name, values in parse_qs(request.query).items()}
        limit = int(asked.get("limit", 20))
        if not 1 <= limit <= 1000:
            refuse("limit", "Input should be between 1 and 1000")
        newest = [batch for batch in reversed(self._engine.batches.values()) if batch.scope == scope]
        ids = [batch.id for batch in newest]
        after, before = asked.get("after_id"), asked.get("before_id")
        listed = newest[ids.index(after) + 1 :] if after in ids else newest
        listed = listed[: ids.index(before)] if before in ids else listed
        page = listed[-limit:] if before in ids else listed[:limit]
        return {
            "data": [batch.shown(now, request.base_url) for batch in page],
            "has_more": len(page) < len(listed),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }


def _cancel(batch: Batch, now: float) -> None:
    if batch.ended is not None:
        raise Refusal(f"Message batch {batch.id} has ended and cannot be canceled")
    if batch.canceled is None:
        batch.canceled = now


def _requests(raw: bytes) -> Sequence[Mapping[str, Any]]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise Refusal(f"The request body is not valid JSON: {error}") from error
    obj("body", body)
    for name in body.keys() - {"requests"}:
        refuse(name, EXTRA)
    if body.get("requests") is None:
        refuse("requests", "Field required")
    array("requests", body["requests"])
    if not 1 <= len(body["requests"]) <= REQUESTS:
        refuse("requests", f"List should have between 1 and {REQUESTS} items after validation")
    seen: set[str] = set()
    for path, request in _entries(body["requests"]):
        name = request["custom_id"]
        if name in seen:
            raise Refusal(f"{path}.custom_id: custom_id must be unique within a Message Batch: {name}")
        seen.add(name)
    requests: Sequence[Mapping[str, Any]] = body["requests"]
    return requests


def _entries(requests: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for at, request in enumerate(requests):
        path = f"requests.{at}"
        obj(path, request)
        for name in ("custom_id", "params"):
            if request.get(name) is None:
                refuse(f"{path}.{name}", "Field required")
        for name in request.keys() - {"custom_id", "params"}:
            refuse(f"{path}.{name}", EXTRA)
        string(f"{path}.custom_id", request["custom_id"])
        if not _CUSTOM_ID.fullmatch(request["custom_id"]):
            refuse(f"{path}.custom_id", f"String should match pattern '^{_CUSTOM_ID.pattern}$'")
        obj(f"{path}.params", request["params"])
        yield path, request


def _outcome(exchange: Exchange) -> dict[str, Any]:
    if exchange.state == "complete":
        return {"type": "succeeded", "message": exchange.result}
    if exchange.fault is not None and exchange.fault.kind == "expired":
        return {"type": "expired"}
    failed = Refusal("Internal server error", status=500).envelope(exchange.request_id)
    return {"type": "errored", "error": exchange.error or failed}


def _result(request: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": request["custom_id"], "result": result}


def _lines(batch: Batch, now: float) -> list[dict[str, Any]]:
    if batch.ended is None:
        raise Refusal(f"Message batch {batch.id} has not ended: it has no results yet", status=404)
    if now >= batch.created + ARCHIVED:
        raise Refusal(f"The results of message batch {batch.id} are no longer available", status=404)
    return batch.results
