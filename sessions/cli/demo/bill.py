"""What the very same requests would have cost with other caching: the documented rules, the sizes that were billed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2

from sessions.core.cache import SECONDS, blocks, can_mark, chain, find
from sessions.core.prices import cost
from sessions.core.profiles import Profile
from sessions.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as it went out: its start in seconds since the epoch, its body, and what was billed for it."""

    started: float
    readable: float
    body: Mapping[str, Any]
    usage: Usage


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cached prefix: its size in tokens, and the seconds since the epoch from and until which it can be read."""

    tokens: int
    readable: float
    expires: float


def uncached(sent: Iterable[Sent]) -> list[Usage]:
    """The usage of each request with no caching at all: every token of the prompt at the plain price."""
    return [Usage(input=one.usage.total_input, output=one.usage.output) for one in sent]


def top_level(sent: Sequence[Sent], profile: Profile) -> list[Usage]:
    """The usage of each request with one top-level `cache_control` (5 minutes) instead of the marks it had.

    The API then marks the last markable block of each request and nothing else, so only whole prompts are ever
    written, and their sizes are known: each is the total input that was billed (prompt-caching page, September 2026).
    """
    written: dict[str, _Entry] = {}
    return [_marked_at_the_end(one, written, profile) for one in sorted(sent, key=lambda one: one.started)]


def _marked_at_the_end(one: Sent, written: dict[str, _Entry], profile: Profile) -> Usage:
    total, output = one.usage.total_input, one.usage.output
    contents = dict(blocks(one.body))
    points = chain(one.body, profile)
    mark = next((n for n in reversed(range(len(points))) if can_mark(contents[points[n].where])), None)
    if mark is None or total < profile.minimum_tokens:
        return Usage(input=total, output=output)

    def alive(digest: str) -> bool:
        entry = written.get(digest)
        return entry is not None and entry.readable <= one.started < entry.expires

    hit = find(points, [mark], alive, profile.lookback)
    expires = one.started + SECONDS["5m"]
    read = 0
    if hit is not None:
        entry = written[points[hit].digest]
        written[points[hit].digest] = _Entry(entry.tokens, entry.readable, expires)
        read = entry.tokens
    if hit != mark:
        written[points[mark].digest] = _Entry(total, one.readable, expires)
    return Usage(cache_read=read, cache_write_5m=total - read, output=output)


def priced(usages: Iterable[Usage], profile: Profile) -> Decimal | None:
    """USD for all of them, each at the card of its own prompt size; `None` where no price is published."""
    prices = [cost(usage, profile) for usage in usages]
    return None if None in prices else sum((price for price in prices if price is not None), Decimal(0))


class Recorder:
    """Writes each answered request to a file, one JSON object a line; many processes may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def hooks(self) -> dict[str, list[Any]]:
        """Event hooks for the HTTP client beneath the SDK."""
        return {"request": [self._began], "response": [self._answered]}

    async def _began(self, request: httpx2.Request) -> None:
        request.extensions["warmline.started"] = time.time()

    async def _answered(self, response: httpx2.Response) -> None:
        if response.status_code == httpx2.codes.OK and response.request.url.path.endswith("/messages"):
            row = {
                "request_id": response.headers.get("request-id"),
                "started": response.request.extensions["warmline.started"],
                "readable": time.time(),
                "body": json.loads(response.request.content),
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read(self, usages: Mapping[str, Usage]) -> list[Sent]:
        """What was sent, in order of start, with the usage that the ledger has for each request id."""
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return sorted(
            (
                Sent(row["started"], row["readable"], row["body"], usages[row["request_id"]])
                for row in rows
                if row["request_id"] in usages
            ),
            key=lambda one: one.started,
        )
