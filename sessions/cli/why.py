"""`warmline why`: why cached tokens were billed again, where the prompt differs, what that cost, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import typer
from rich.markup import escape

from sessions import Call, Cost, Miss, SessionNotFound
from sessions.cli.history import moment
from sessions.cli.lookup import reading, session_named
from sessions.cli.options import STORE, JsonOption, OwnerOption, SessionArgument, StoreOption
from sessions.cli.terminal import console, dollars, print_json
from sessions.cli.transcript import aside, below
from sessions.errors import ConfigurationError
from sessions.translate import storage_errors
from storage import Store


@dataclass(frozen=True, slots=True)
class Numbered:
    """A call and the number of its turn; `None` for one between turns (a pre-warm, a park)."""

    turn: int | None
    call: Call


def why(
    session: SessionArgument,
    turn: Annotated[int | None, typer.Option("--turn", min=1, help="Only this turn, counted from 1.")] = None,
    call: Annotated[str | None, typer.Option("--call", help="Only this call; the start of its id will do.")] = None,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which calls of a session lost cached tokens, and why: what differs, what it cost, what to change."""
    if turn is not None and call is not None:
        raise ConfigurationError("give --turn or --call, not both")
    session = session_named(store, session, owner)
    found = _chosen(anyio.run(_read, reading(store), session, owner), turn, call)
    if as_json:
        print_json(_document(session, found))
        return
    missed = [(one, one.call.miss) for one in found if one.call.miss is not None]
    for one, miss in missed:
        _print_miss(one, miss)
    if not missed:
        for line in _healthy(found):
            console.print(line, soft_wrap=True)


async def _read(store: Store, session: str, owner: str | None) -> list[Numbered]:
    """The session's ledger with the numbers of its turns; reads rows only, no conversation."""
    with storage_errors():
        await store.open()
        try:
            if (await store.load(session)).owner != owner and owner is not None:
                raise SessionNotFound
            numbers = {turn.id: turn.sequence for turn in await store.turns(session)}
            return [Numbered(numbers.get(row.turn or ""), Call.of(row)) for row in await store.calls(session)]
        finally:
            await store.close()


def _chosen(found: Sequence[Numbered], turn: int | None, call: str | None) -> list[Numbered]:
    chosen = [one for one in found if (turn in (None, one.turn)) and (call is None or one.call.id.startswith(call))]
    if turn is not None and not chosen:
        raise ConfigurationError(f"there is no call of a turn {turn}: the turns are numbered from 1 (`warmline show`)")
    if call is not None and len(chosen) != 1:
        raise ConfigurationError(f"{len(chosen) or 'no'} calls have an id that begins with {call!r}")
    return chosen


def _document(session: str, found: Sequence[Numbered]) -> dict[str, Any]:
    bill = Cost.of(one.call for one in found)
    misses = [
        {"turn": one.turn, "call": one.call.id, "kind": one.call.kind, "started": one.call.started, "miss": miss}
        for one in found
        if (miss := one.call.miss) is not None
    ]
    return {"id": session, "calls": bill.calls, "hit_rate": bill.usage.hit_rate, "loss": bill.loss, "misses": misses}


def _print_miss(one: Numbered, miss: Miss) -> None:
    call = one.call
    where = f"Turn {one.turn}" if one.turn is not None else f"A {call.kind}"
    about = f"{moment(call.started)}  call {call.id[:8]}"
    console.print(f"[bold]{where}[/]  [red]{escape(miss.cause)}[/]  [dim]{about}[/]", soft_wrap=True)
    if miss.place:
        console.print(aside(miss.place, "bold"))
        console.print(aside(f"- {miss.before or '(nothing)'}", "red"))
        console.print(aside(f"+ {miss.after or '(nothing)'}", "green"))
    console.print(aside(miss.sentence, ""))
    console.print(aside(f"It added {dollars(miss.cost)} to this call's {dollars(call.cost)}.", ""))
    console.print(below(call.usage))
    console.print()


def _healthy(found: Sequence[Numbered]) -> Iterator[str]:
    """What there is to say where nothing was missed."""
    calls = [one.call for one in found]
    usage = Cost.of(calls).usage
    count = f"{len(calls)} call" + ("" if len(calls) == 1 else "s")
    yield f"No miss: {count}, {usage.hit_rate:.0%} of the input was read from the cache."
    unanswered = sum(call.first_event is None for call in calls)
    if unanswered:
        yield f"[dim]{unanswered} of them got no answer, so nothing is known of the cache.[/]"
    if any(not call.usage.counters for call in calls if call.first_event is not None):
        yield "[dim]The endpoint does not always report what it reads from its cache: then a miss cannot be seen.[/]"
