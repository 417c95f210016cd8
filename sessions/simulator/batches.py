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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sessions.simulator.exchange import Exchange
from sessions.simulator.refusal import Refusal
from sessions.simulator.shapes import EXTRA, array, obj, refuse, string

if TYPE_CHECKING:
    from sessions.simulator.engine import Engine

ROOT = "/v1/messages/batches"
ITEM = f"{ROOT}/request"
"""The path under which the journal keeps each request of a batch."""
LARGEST = 256 * 1024 * 1024
"""Bytes of a batch (batch-processing page, 2026)."""
REQUESTS = 100_000
"""Requests of a batch."""
EXPIRES, ARCHIVED = 24 * 3600.0, 29 * 24 * 3600.0
"""Seconds after which a batch ends whatever is left of it, and after which its results are gone."""
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SPOILS = frozenset({"repeated_id", "unoffered", "not_object"})
"""Faults that change what a reply says; any other one leaves a batched request without a reply."""


@dataclass(slots=True, eq=False)
class Batch:
    """One batch. `due`: when its requests are processed. Times are seconds since the epoch."""

    id: str
    scope: tuple[str, str]
    headers: Mapping[str, str]
    requests: Sequence[Mapping[str, Any]]
    created: float
    due: float
    canceled: float | None = None
    ended: float | None = None
    is_running: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def next_event(self) -> float:
        """When it ends if nothing else happens to it."""
        ends = min(self.due, self.created + EXPIRES)
        return ends if self.canceled is None else min(ends, self.canceled)

    def shown(self, now: float, base_url: str) -> dict[str, Any]:
        """The batch as the API shows it."""
        archived = self.created + ARCHIVED
        ended, gone = self.ended is not None, now >= archived
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["processing"] = 0 if ended else len(self.requests)
        for one in self.results:
            counts[one["result"]["type"]] += 1
        waiting = "in_progress" if self.canceled is None else "canceling"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else waiting,
            "request_counts": counts,
            "created_at": _moment(self.created),
            "expires_at": _moment(self.created + EXPIRES),
            "ended_at": _moment(self.ended),
            "cancel_initiated_at": _moment(self.canceled),
            "archived_at": _moment(archived) if gone else None,
            "results_url": f"{base_url}{ROOT}/{self.id}/results" if ended and not gone else None,
        }


class Batches:
    """All batches of one engine. `process` must be awaited before each request, so that what is due has happened."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._all: dict[str, Batch] = {}

    # -- processing --

    async def process(self, now: float) -> None:
        """Ends every batch whose time has come, in the order of their times."""
        waiting = [one for one in self._all.values() if one.ended is None and not one.is_running]
        for batch in sorted(waiting, key=lambda one: one.next_event):
            if batch.next_event <= now and batch.ended is None and not batch.is_running:
                await self._end(batch)

    async def _end(self, batch: Batch) -> None:
        batch.is_running, moment = True, batch.next_event
        if batch.canceled is not None and moment >= batch.canceled:
            batch.results = [_result(one, {"type": "canceled"}) for one in batch.requests]
        elif moment < batch.due:
            batch.results = [_result(one, {"type": "expired"}) for one in batch.requests]
        else:
            batch.results = await self._answered(batch)
        batch.results.reverse()  # results are not promised in the order of the requests
        batch.ended, batch.is_running = moment, False

    async def _answered(self, batch: Batch) -> list[dict[str, Any]]:
        """The results of all requests: received together, then asked, then begun and ended together."""
        engine = self._engine
        exchanges = [engine.receive(one["params"], batch.headers, batch.due, path=ITEM) for one in batch.requests]
        for exchange in exchanges:
            if exchange.state != "open":
                continue
            answer = engine.ask(exchange)
            engine.answer(exchange, await answer if inspect.isawaitable(answer) else answer)
            if exchange.fault is not None and exchange.fault.kind not in _SPOILS:
                exchange.state = "failed"
        for exchange in exchanges:
            if exchange.state == "open":
                engine.begin(exchange, batch.due)
        for exchange in exchanges:
            engine.end(exchange, batch.due)
        pairs = zip(batch.requests, exchanges, strict=True)
        return [_result(one, _outcome(exchange)) for one, exchange in pairs]

    # -- the routes --

    def receive(
        self, method: str, url: tuple[str, str], raw: bytes, headers: Mapping[str, str], now: float, *,
        base_url: str, seconds: float,
    ) -> Exchange:  # fmt: skip
        """Answers one request to `url` (path, query); a batch made now is processed `seconds` later.

        Never raises: a refused exchange has `status` and `error`.
        """
        exchange = self._engine.visit(url[0], headers, now)
        if exchange.state != "open":
            return exchange
        try:
            self._route(exchange, method, url[1], raw, headers, base_url, seconds)
        except Refusal as refusal:
            self._engine.refuse(exchange, refusal)
            return exchange
        broken = exchange.fault is not None  # it was done, and the answer is lost on its way
        exchange.state, exchange.ended = "failed" if broken else "complete", now
        return exchange

    def _route(
        self, exchange: Exchange, method: str, query: str, raw: bytes, headers: Mapping[str, str], base_url: str,
        seconds: float,
    ) -> None:  # fmt: skip
        id, _, action = exchange.path.removeprefix(ROOT).strip("/").partition("/")
        scope, now = (exchange.organization, exchange.workspace), exchange.started
        if not id and method == "GET":
            exchange.result = self._list(scope, query, now, base_url)
            return
        batch = self._create(scope, raw, headers, now, seconds) if not id and method == "POST" else self._all.get(id)
        if batch is None or batch.scope != scope:
            raise Refusal(f"Message batch {id} not found" if id else "Method Not Allowed", status=404 if id else 405)
        if (method, action) == ("POST", "cancel"):
            self._cancel(batch, now)
        elif (method, action) == ("GET", "results"):
            exchange.lines = _lines(batch, now)
            return
        elif (method, action) == ("DELETE", ""):
            if batch.ended is None:
                raise Refusal(f"Message batch {id} cannot be deleted while it is in progress: cancel it first")
            del self._all[id]
            exchange.result = {"id": id, "type": "message_batch_deleted"}
            return
        elif action or method not in ("GET", "POST"):
            raise Refusal("Not Found", status=404)
        exchange.result = batch.shown(now, base_url)

    def _create(
        self, scope: tuple[str, str], raw: bytes, headers: Mapping[str, str], now: float, seconds: float
    ) -> Batch:
        if len(raw) > LARGEST:
            raise Refusal("Request exceeds the maximum size", status=413)
        batch = Batch(self._engine.new_id("msgbatch"), scope, headers, _requests(raw), now, now + seconds)
        self._all[batch.id] = batch
        return batch

    def _cancel(self, batch: Batch, now: float) -> None:
        if batch.ended is not None:
            raise Refusal(f"Message batch {batch.id} has ended and cannot be canceled")
        if batch.canceled is None:
            batch.canceled = now

    def _list(self, scope: tuple[str, str], query: str, now: float, base_url: str) -> dict[str, Any]:
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        limit = int(asked.get("limit", 20))
        if not 1 <= limit <= 1000:
            refuse("limit", "Input should be between 1 and 1000")
        newest = [one for one in reversed(self._all.values()) if one.scope == scope]
        ids = [one.id for one in newest]
        after, before = asked.get("after_id"), asked.get("before_id")
        found = newest[ids.index(after) + 1 :] if after in ids else newest
        found = found[: ids.index(before)] if before in ids else found
        page = found[-limit:] if before in ids else found[:limit]
        return {
            "data": [one.shown(now, base_url) for one in page],
            "has_more": len(page) < len(found),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }


def check(body: Mapping[str, Any]) -> None:
    """What a batched request may not ask for (batch-processing page, 2026). The sentences are ours."""
    if body.get("stream"):
        refuse("stream", "streaming is not supported in a Message Batch")
    if body["max_tokens"] == 0:
        refuse("max_tokens", "Input should be greater than or equal to 1")
    if body.get("speed"):
        refuse("speed", "not supported in a Message Batch")


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
    for path, one in _entries(body["requests"]):
        if one["custom_id"] in seen:
            raise Refusal(f"{path}.custom_id: custom_id must be unique within a Message Batch: {one['custom_id']}")
        seen.add(one["custom_id"])
    found: Sequence[Mapping[str, Any]] = body["requests"]
    return found


def _entries(requests: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for at, one in enumerate(requests):
        path = f"requests.{at}"
        obj(path, one)
        for name in ("custom_id", "params"):
            if one.get(name) is None:
                refuse(f"{path}.{name}", "Field required")
        for name in one.keys() - {"custom_id", "params"}:
            refuse(f"{path}.{name}", EXTRA)
        string(f"{path}.custom_id", one["custom_id"])
        if not _CUSTOM_ID.fullmatch(one["custom_id"]):
            refuse(f"{path}.custom_id", f"String should match pattern '^{_CUSTOM_ID.pattern}$'")
        obj(f"{path}.params", one["params"])
        yield path, one


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


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
