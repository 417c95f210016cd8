"""Values: what can be stored, and what is refused by name."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from decimal import Decimal
from functools import partial
from typing import Any

from storage.errors import InvalidValue
from storage.records import Totals
from storage.store import Store

from .expecting import equal, raises
from .records import (
    ME,
    NOW,
    OTHER,
    call_record,
    change,
    decision_record,
    entries_of,
    grown,
    hold,
    relay_record,
    session_record,
    tool_call_record,
    turn_record,
)

NUL, HALF = "a\0b", "a\ud800b"


async def what_cannot_be_stored_is_refused_by_name(store: Store) -> None:
    """InvalidValue names the argument or the field; nothing is written, and the next work goes on."""
    lease = await grown(store, "a")
    (entry,) = entries_of("b", after=entries_of("a")[0])

    def writes(**fields: Any) -> Awaitable[None]:
        return store.commit(lease, change("a", "a", **fields))

    anything: Any = store
    for name, work in (
        *(("session", anything.load(wrong)) for wrong in (NUL, HALF, 5)),
        ("id", store.create(session_record("x" * 8000))),
        ("owner", store.create(session_record("t", owner="ö" * 501))),
        ("tree", store.create(session_record("t", tree=NUL))),
        ("created_at", store.create(session_record("t", created_at=math.nan))),
        ("cost", store.create(session_record("t", totals=Totals(cost=Decimal("nan"))))),
        ("input", store.create(session_record("t", totals=Totals(input=2**63)))),
        *(("limit", anything.list(limit=wrong)) for wrong in (-1, 1.5, True, "1")),
        *(("limit", work(limit=-1)) for work in (partial(store.calls, "s"), partial(store.turns, "s"))),
        ("limit", store.read("s", calls=-1)),
        ("limit", store.orphans(now=NOW, limit=-1)),
        ("limit", store.claim_due(ME, now=NOW, limit=-1, seconds=1)),
        ("search", store.list(search=NUL)),
        ("owner", store.list(owner=HALF)),
        ("session", store.list(before=NUL)),
        ("prefix", store.list(prefix=NUL)),
        ("seconds", store.acquire("s", ME, seconds=math.inf, now=NOW)),
        ("queue", store.acquire("s", OTHER, seconds=60, now=NOW, queue=math.nan)),
        ("late", store.claim_due(ME, now=NOW, limit=1, late=10**400, seconds=1)),
        ("seconds", store.renew(lease, seconds=math.nan, now=NOW)),
        ("after", store.tend("s", 10**400, now=NOW)),
        ("point", store.lead(NUL, ME, seconds=60, now=NOW)),
        ("point", store.lead("p" * 8000, ME, seconds=60, now=NOW)),
        ("alive", store.led("p", 1, ttl=None, alive=math.inf, now=NOW)),
        ("token", store.led("p", 2**63, ttl=None, alive=0, now=NOW)),
        *((name, anything.list(**{name: wrong})) for name, wrong in (("state", NUL), ("parent", HALF))),
        ("id", store.queue(turn_record("x" * 8000))),
        ("key", store.queue(turn_record(key=NUL))),
        ("queued", store.queue(turn_record(queued=HALF))),
        ("now", store.ask_stop("s", "t", now=math.nan)),
        ("id", store.ask_stop("s", NUL, now=NOW)),
        ("entry", store.decide(decision_record(NUL), turn="t", of=1)),
        ("reader", store.follow("s", "r" * 8000, seconds=1, now=NOW)),
        ("seconds", store.follow("s", "r", seconds=math.inf, now=NOW)),
        ("now", store.followed(now=math.nan)),
        ("session", store.relay([relay_record(), relay_record(session="x" * 8000)])),
        ("content", store.relay([relay_record(), relay_record(content=NUL)])),
        ("content", store.relay([relay_record(content=HALF)])),
        ("written", store.relay([relay_record(written=math.inf)])),
        ("limit", store.relayed("s", "t", limit=-1)),
        ("after", store.relayed("s", "t", after=2**63)),
        ("before", store.end_relays(before=math.nan)),
        ("endpoint", store.trust(NUL, "m")),
        ("model", store.weigh_trust("e", "m" * 8000, 1, first=1, most=2, now=NOW, forget=1.0)),
        ("by", store.weigh_trust("e", "m", 2**63, first=1, most=2, now=NOW, forget=1.0)),
        ("now", store.weigh_trust("e", "m", 1, first=1, most=2, now=math.nan, forget=1.0)),
        ("forget", store.claim_trust("e", "m", seconds=1.0, now=NOW, forget=math.inf)),
        ("seconds", store.claim_trust("e", "m", seconds=10**400, now=NOW, forget=1.0)),
        ("content", writes(entries=(entry._replace(content=f'["{NUL}"]'),))),
        ("prompt_tokens", writes(entries=(entry._replace(prompt_tokens=2**63),))),
        ("title", writes(title=HALF)),
        ("key", writes(turn=turn_record(key="k" * 8000))),
        ("key", writes(turn=turn_record(key=NUL))),
        ("idempotent", writes(tool_calls=(tool_call_record(idempotent=2),))),
        ("content", writes(tool_calls=(tool_call_record(content=NUL),))),
        ("input", store.record(call_record(input=2**63))),
        ("output", store.record(call_record(output=-1))),
        ("cache_read", store.record(call_record(cache_read=1.5))),
        ("miss_tokens", store.record(call_record(miss_tokens=2**62))),
        *(("cost", store.record(call_record(cost=Decimal(wrong)))) for wrong in ("inf", "1e13", "1e-20000")),
        ("cost", store.record(call_record(cost=0.5))),
        ("waited", store.record(call_record(waited=math.inf))),
        ("response_id", store.record(call_record(response_id=NUL))),
    ):
        error = await raises(InvalidValue, work)
        equal((name, name in str(error).split(" must")[0].split(" has")[0].split(" is")[0]), (name, True))
    equal([session.id for session in await store.list()], ["s"])
    equal([await store.turns("s"), await store.followed(now=NOW), await store.relayed("s", "t")], [[]] * 3)
    equal((await store.load("s")).totals, Totals())
    equal([session.id for session in await store.list(limit=2**63)], ["s"])
    with store.watch(HALF):
        await store.release(lease)


async def texts_of_errors_are_stored_whatever_is_in_them(store: Store) -> None:
    """They come from elsewhere, and what they tell of is not to be lost."""
    lease = await grown(store, "a")
    await store.record(call_record(error=NUL + HALF))
    await store.commit(lease, change("a", "a", turn=turn_record(state="failed", error=NUL)))
    equal([call.error for call in await store.calls("s")], ["a\N{REPLACEMENT CHARACTER}ba?b"])
    equal([turn.error for turn in await store.turns("s")], ["a\N{REPLACEMENT CHARACTER}b"])


async def names_of_a_thousand_bytes_are_stored(store: Store) -> None:
    """Two of them share an entry of an index."""
    long = "".join(f"{number:x}\N{SPOOL OF THREAD}"[-4:] for number in range(1000))
    names = [(long[place:] + "x" * 1000).encode()[:996].decode(errors="ignore") for place in range(4)]
    await store.create(session_record(names[0], owner=names[1]), [entries_of("e")[0]._replace(id=names[2])])
    lease = await hold(store, names[0])
    turn = turn_record(names[2], names[0], key=names[3])
    await store.commit(lease, change(None, None, turn=turn, calls=(call_record(names[1], names[0]),)))
    equal(await store.turn(names[0], key=names[3]), turn)
    equal([session.id for session in await store.list(owner=names[1])], [names[0]])
