"""`warmline cost`: what sessions have cost, how much the cache gave, and what its misses added."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any

import anyio
import typer
from rich.markup import escape

from sessions import ClearedResults, Compaction, ConfigurationError, Cost, CostForecast, SessionInfo, SessionManager
from sessions.cli.history import print_sessions
from sessions.cli.lookup import claude, reading, session_named
from sessions.cli.options import STORE, JsonOption, OwnerOption, StoreOption
from sessions.cli.terminal import console, dollars, figures, plain_table, print_json, print_table


class By(StrEnum):
    """What `--by` takes."""

    SESSION = "session"
    OWNER = "owner"
    DAY = "day"
    KIND = "kind"
    MODEL = "model"
    AGENT = "agent"


def cost(
    session: Annotated[str | None, typer.Argument(help="A session's id, or its beginning; all without it.")] = None,
    by: Annotated[By | None, typer.Option("--by", help="A row for each of these.", show_default=False)] = None,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="What the session's next turn will cost: now, later, with other models.")
    ] = False,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a session, or all of them, have cost, how much the cache gave, and what its misses added."""
    if forecast:
        if session is None or by is not None:
            raise ConfigurationError("--forecast is of one session: name it, and leave out --by")
        _forecast(store, session_named(store, session, owner), owner, as_json)
        return
    if session is None and by is None:
        _cost_of_all(store, owner, as_json)
        return

    session = session and session_named(store, session, owner)

    async def run() -> tuple[dict[str | None, Cost], list[Compaction], list[ClearedResults]]:
        async with SessionManager(reading(store)) as manager:
            groups = await manager.costs(by.value if by else "kind", session=session, owner=owner)
            if session is None or by is not None:
                return groups, [], []
            opened = await manager.open(session)
            return groups, await opened.compactions(), await opened.clearings()

    found, compactions, clearings = anyio.run(run)
    whole = sum(found.values(), start=Cost())
    if by is None:
        if as_json:
            print_json(_with_rate(whole) | {"compactions": compactions, "clearings": clearings})
        else:
            print_cost(whole)
            _print_compactions(compactions)
            _print_clearings(clearings)
    elif as_json:
        print_json([{str(by): key, **_with_rate(one)} for key, one in found.items()])
    else:
        _print_groups(by, found)
        _print_losses(whole)


def _forecast(store: str, session: str, owner: str | None, as_json: bool) -> None:
    async def run() -> CostForecast:
        # Nothing is sent: what is in the cache is known by the address that would be asked.
        async with claude(tells=False) as client, SessionManager(reading(store), client=client) as manager:
            return await (await manager.open(session, owner=owner)).forecast()

    found = anyio.run(run)
    if as_json:
        more = {name: getattr(found, name) for name in ("waiting_five_minutes", "waiting_an_hour")}
        print_json({**{field.name: getattr(found, field.name) for field in fields(found)}, **more})
    else:
        _print_forecast(found)


def _print_forecast(found: CostForecast) -> None:
    """A row for each moment, then one for each other model, the cheapest first."""
    table = plain_table("the next turn", ">read", ">written", ">uncached", ">answer", ">USD", ">kept warm USD")
    moments = {"now": found.now, "in five minutes": found.in_five_minutes, "in an hour": found.in_an_hour}
    for name, turn in moments.items():
        usage = turn.usage
        table.add_row(
            name, f"{usage.cache_read:,}", f"{usage.cache_write:,}", f"{usage.input:,}", f"{usage.output:,}",
            dollars(turn.cost), dollars(turn.kept),
        )  # fmt: skip
    print_table(table)
    console.print(f"Kept warm since the last turn for {dollars(found.waited)}.")
    if (summary := found.compaction) is not None:
        console.print(
            f"A compaction first would add {dollars(summary.price)} to it and save {dollars(summary.saves)} in all, "
            f"over {summary.requests:.0f} requests that are {summary.shorter:,} tokens shorter."
        )
    if (more := found.clearing) is not None:
        console.print(
            f"Clearing {more.results} tool results would add {dollars(more.price)} to it and save "
            f"{dollars(more.saves)} in all, over {more.requests:.0f} requests that are {more.tokens:,} tokens shorter."
        )
    if not found.models:
        return
    table = plain_table("with another model", ">USD as warm", ">USD at the change")
    for other in found.models:
        table.add_row(escape(other.model), dollars(other.warm), dollars(other.switching))
    print_table(table)


def _cost_of_all(store: str, owner: str | None, as_json: bool) -> None:
    async def run() -> tuple[list[SessionInfo], Cost]:
        async with SessionManager(reading(store)) as manager:
            return await _all(manager, owner), sum((await manager.costs("kind", owner=owner)).values(), start=Cost())

    found, whole = anyio.run(run)
    if as_json:
        print_json(found)
        return
    print_sessions(found)
    console.print(f"[bold]In all {dollars(whole.total)}[/]")
    _print_losses(whole)


async def _all(manager: SessionManager, owner: str | None) -> list[SessionInfo]:
    found: list[SessionInfo] = []
    while page := await manager.list(owner=owner, limit=200, before=found[-1].id if found else None, branches=True):
        found += page
    return found


def print_cost(found: Cost) -> None:
    """A session's bill: a row for each kind of call, one for all, and the tokens behind it."""
    table = plain_table("kind", ">USD")
    for kind, price in found.by_kind.items():
        table.add_row(escape(kind), dollars(price))
    table.add_row("in all", dollars(found.total), style="bold")
    console.print(table)
    usage = found.usage
    console.print(f"{found.calls} calls: {figures(usage)}  answers {usage.output:,}")
    console.print(f"{usage.hit_rate:.0%} of all input was read from the cache.")
    if found.unpriced:
        console.print(f"{found.unpriced} of the calls have no published price: the sums leave them out.")
    _print_losses(found)


def _print_compactions(found: list[Compaction]) -> None:
    for one in found:
        expected = "" if one.call.saves is None else f", of {dollars(one.call.saves)} expected"
        console.print(
            f"A compaction has left {one.left_out:,} tokens out of {one.requests} requests since, and saved "
            f"{dollars(one.saved)}{expected}; what was read again is not counted."
        )


def _print_clearings(found: list[ClearedResults]) -> None:
    for one in found:
        console.print(
            f"Clearing {one.call.clearing} results has left {one.left_out:,} tokens out of {one.requests} requests "
            f"since, and saved {dollars(one.saved)}, of {dollars(one.call.saves)} expected; what was read again is not "
            "counted."
        )


def _with_rate(found: Cost) -> dict[str, Any]:
    """A bill for a script, with the share of the input that was read from the cache."""
    about = {field.name: getattr(found, field.name) for field in fields(found)}
    return {**about, "hit_rate": found.usage.hit_rate, "loss": found.loss}


def _print_groups(by: By, found: dict[str | None, Cost]) -> None:
    """A row for each group, days in their order, the rest with the dearest first; the last row is the sum."""
    rows = list(found.items())
    if by is not By.DAY:
        rows.sort(key=lambda row: row[1].total, reverse=True)
    table = plain_table(str(by), ">calls", ">read", ">written", ">uncached", ">hit", ">USD", ">misses", ">lost USD")
    for key, one in [*rows, ("in all", sum(found.values(), start=Cost()))]:
        usage, loss = one.usage, one.loss
        table.add_row(
            escape(key or "nobody"), f"{one.calls:,}", f"{usage.cache_read:,}", f"{usage.cache_write:,}",
            f"{usage.input:,}", f"{usage.hit_rate:.0%}", dollars(one.total), f"{loss.calls:,}", dollars(loss.cost),
            style="bold" if key == "in all" else None,
        )  # fmt: skip
    print_table(table)


def _print_losses(found: Cost) -> None:
    """What misses added to the bill, the dearest cause first; nothing where there was none."""
    if not found.losses:
        return
    table = plain_table("missed because of", ">calls", ">tokens billed again", ">USD")
    for cause, loss in sorted(found.losses.items(), key=lambda row: row[1].tokens, reverse=True):
        table.add_row(escape(cause), f"{loss.calls:,}", f"{loss.tokens:,}", dollars(loss.cost))
    console.print(table)
    console.print("[dim]What happened and what to change: warmline why SESSION[/]")
