"""Calls and their sums, the journal, turns, prompts."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from storage.errors import TurnKeyTaken
from storage.records import CallRecord, PromptRecord, Subtotal, Totals
from storage.store import Store

from .expecting import equal, refused
from .records import call_record, change, grown, hold, session_record, tool_call_record, turn_record


async def the_ledger_adds_up(store: Store) -> None:
    """Totals by session, owner, day, model and agent, by kind and cause within them, are exact sums of the rows."""
    day, cent = 86_400.0, Decimal("0.0000001")
    for id, owner in (("a", "ada"), ("b", "ada"), ("c", None)):
        await store.create(session_record(id, owner=owner))
    figures = {"input": 1, "cache_read": 20, "cache_write_5m": 300, "cache_write_1h": 4000, "output": 5}
    missed = {"miss_cause": "evicted", "miss_tokens": 7, "miss_cost": cent}
    rows = [
        call_record("1", "a", started=day * 20_000 + 1, cost=Decimal("0.1"), **figures),
        call_record("2", "a", started=day * 20_001 - 1, cost=Decimal("0.2"), **figures, **missed),
        call_record("3", "b", started=day * 20_001, kind="park", model="n", cost=cent, **figures),
        call_record("4", "c", started=day * 20_001, cost=None, status="error", **missed | {"miss_cost": None}),
    ]
    for row in rows:
        await store.record(row)
    equal([call.miss_cost for call in await store.calls("a")], [None, cent])
    one, two, three, four = map(_alone, rows)
    equal(_sorted(await store.totals("session")), _sorted(
        [replace(one, key="a"), replace(two, key="a"), replace(three, key="b"), replace(four, key="c")]
    ))  # fmt: skip
    equal(_sorted(await store.totals("owner")), _sorted(
        [replace(one, key="ada"), replace(two, key="ada"), replace(three, key="ada"), four]
    ))  # fmt: skip
    equal(_sorted(await store.totals("day", owner="ada")), _sorted(
        [replace(one, key="2024-10-04"), replace(two, key="2024-10-04"), replace(three, key="2024-10-05")]
    ))  # fmt: skip
    both = replace(two, calls=2, input=1, cache_read=20, unpriced=1, lost=14, cost=Decimal("0.2"), lost_cost=cent)
    equal(_sorted(await store.totals()), _sorted([one, both, three]))
    equal(_sorted(await store.totals(session="b")), [three])
    equal(await store.totals(owner="nobody"), [])
    equal(_sorted(await store.totals("model")), _sorted(
        [replace(both, key="m"), replace(one, key="m"), replace(three, key="n")]
    ))  # fmt: skip
    equal(_sorted(await store.totals("day", since=day * 20_000 + 1, until=day * 20_001 - 1)), _sorted(
        [replace(one, key="2024-10-04")]
    ))  # fmt: skip
    equal(_sorted(await store.totals(since=day * 20_001, owner="ada")), [three])
    equal(_sorted(await store.totals(until=day * 20_000 + 1)), [])


async def the_ledger_adds_up_by_agent(store: Store) -> None:
    """The agent is named in a session's metadata; metadata that is no JSON, or no object, or names none, has none."""
    texts = ['{"agent":"\\u00e4"}', '{"n":"\\u0000","agent":"ä"}', "{", "[" * 9_999, '{"agent":7}', "[1]"]
    for place, metadata in enumerate(texts):
        await store.create(session_record(f"s{place}", metadata=metadata))
        await store.record(call_record("c", f"s{place}", cost=Decimal("0.1"), input=place))
        await store.record(call_record("d", f"s{place}", kind="park", cost=None))
    groups = await store.totals("agent")
    equal([(one.key, one.kind, one.calls, one.input, one.cost, one.unpriced) for one in groups], [
        (None, "park", 4, 0, Decimal(0), 4), (None, "turn", 4, 14, Decimal("0.4"), 0),
        ("ä", "park", 2, 0, Decimal(0), 2), ("ä", "turn", 2, 1, Decimal("0.2"), 0),
    ])  # fmt: skip


def _alone(row: CallRecord) -> Subtotal:
    counts = {
        name: getattr(row, name) for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    }
    counts |= {"calls": 1, "unpriced": int(row.cost is None), "lost": row.miss_tokens or 0}
    cost, lost_cost = row.cost or Decimal(0), row.miss_cost or Decimal(0)
    return Subtotal(None, row.kind, row.miss_cause, **counts, cost=cost, lost_cost=lost_cost)


def _sorted(subtotals: list[Subtotal]) -> list[Subtotal]:
    return sorted(subtotals, key=repr)


async def the_ledger_keeps_every_field_and_adds_up(store: Store) -> None:
    """Calls come back whole and in order, once each; costs add up to the last digit."""
    await store.create(session_record())
    full = CallRecord(
        id="c1", session="s", kind="park", model="m", started=1.5, status="error", turn="t", entry="e",
        first_event=2.5, ended=3.5, request_id="r", response_id="i", input=1, cache_read=2, cache_write_5m=3,
        cache_write_1h=4, output=5, counters=False, expected='{"a":1}', cost=Decimal("0.0000003"), points="[1]",
        waited=0.25, stop_reason="end_turn", miss="{}", error="no", prompt="p", estimated=True,
    )  # fmt: skip
    priced, unpriced = call_record("c3", cost=Decimal("0.10")), call_record("c2", input=10**12)
    for call in (full, priced, unpriced, replace(full, input=999)):
        await store.record(call)
    equal(await store.calls("s"), [full, priced, unpriced])
    equal(await store.calls("s", limit=1), [full])
    equal(await store.calls("s", limit=2, newest_first=True), [unpriced, priced])
    sums = {"input": 10**12 + 1, "cache_read": 2, "cache_write_5m": 3, "cache_write_1h": 4, "output": 5}
    equal((await store.load("s")).totals, Totals(turns=0, calls=3, **sums, cost=Decimal("0.1000003"), unpriced=1))


async def the_journal_joins_start_and_end(store: Store) -> None:
    """One record for each call of an entry; the first start and the first end count."""
    lease = await grown(store, "a", "b")
    start = tool_call_record(entry="b", started=1.0)
    end = replace(start, started=5.0, ended=6.0, content='{"x":1}', is_error=True)
    second, other = replace(start, index=1), replace(end, entry="a", tool_id="z")
    for rows in ((start, second), (end,), (replace(end, content="late"), replace(start, started=9.0)), (other,)):
        await store.commit(lease, change("b", "b", tool_calls=rows))
    equal(await store.journal("s"), [replace(end, started=1.0), second, other])
    equal(await store.journal("s", "a"), [other])
    equal(await store.journal("s", "nobody"), [])


async def a_turn_is_replaced_by_its_id(store: Store) -> None:
    """turn finds it by id and key, with every field; a key belongs to one turn of the session."""
    lease = await grown(store, "a")
    fields: dict[str, Any] = {"ended": 2.0, "base": "x", "entry": "a", "reply": "a", "stop_reason": "end_turn"}
    fields |= {"queued": '["words"]', "pending": "[1]"}
    first = turn_record(key="k", digest="d", result="{}", call="{}", token=7, error="e", attempts=4, **fields)
    done = replace(first, state="finished", call=None, queued=None, pending=None)
    for turn in (first, done):
        await store.commit(lease, change("a", "a", turn=turn))
        equal([await store.turn("s", id="t"), await store.turn("s", key="k")], [turn, turn])
    equal((await store.load("s")).totals.turns, 1)
    await refused(store, TurnKeyTaken, lease, change("a", None, turn=turn_record("u", sequence=2, key="k")))
    equal([await store.turn("s", id="u"), await store.turn("s", key="other")], [None, None])
    await store.create(session_record("s2"))
    await store.commit(await hold(store, "s2"), change(None, None, turn=turn_record(session="s2", key="k")))


async def the_open_turn_is_the_newest_unfinished_one(store: Store) -> None:
    """open_turn looks for `running` and `interrupted`; turns lists by sequence, those of one sequence as written."""
    lease = await grown(store, "a")
    equal(await store.open_turn("s"), None)
    states = ("running", "interrupted", "finished", "failed", "cancelled")
    turns = [turn_record(f"t{i}", sequence=i, state=state) for i, state in enumerate(states)]
    for turn in (turns[1], turns[0], *turns[2:]):
        await store.commit(lease, change("a", "a", turn=turn))
    equal(await store.open_turn("s"), turns[1])
    equal(await store.turns("s"), turns)
    equal(await store.turns("s", limit=2), turns[3:])
    later = turn_record("later", sequence=1, state="running")
    await store.commit(lease, change("a", "a", turn=later))
    equal(await store.open_turn("s"), later)
    equal([turn.id for turn in await store.turns("s", limit=4)], ["later", "t2", "t3", "t4"])


async def a_prompt_is_kept_once_for_each_session(store: Store) -> None:
    """It comes with a commit or a recorded call, byte for byte; the first text of a digest counts."""
    lease = await grown(store, "a")
    await store.create(session_record("t"))
    first, text = PromptRecord("d", '{"b":1, "a":"\\u00e9"}'), '{"other":1}'
    await store.commit(lease, change("a", "a", prompts=(first, PromptRecord("e", text)), calls=(call_record(),)))
    await store.record(call_record("c2", prompt="d"), PromptRecord("d", text))
    await store.record(call_record("c3", "t", prompt="d"), PromptRecord("d", text))
    equal([await store.prompt("s", "d"), await store.prompt("s", "e")], [first.settings, text])
    equal([await store.prompt("t", "d"), await store.prompt("t", "e")], [text, None])
    await store.delete("s")
    equal([await store.prompt("s", "d"), await store.prompt("t", "d")], [None, text])
