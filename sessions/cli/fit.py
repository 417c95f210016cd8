"""`warmline fit`: when users come back, as the ledger shows it, how far that can be believed, and a file of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.markup import escape

from sessions.calls.prior_file import prior_text
from sessions.cli.history import moment
from sessions.cli.lookup import reading
from sessions.cli.options import STORE, JsonOption, OwnerOption, StoreOption
from sessions.cli.output import ForceOption, check, files_of, writing
from sessions.cli.terminal import console, plain_table, print_json, print_table
from sessions.clock import SystemClock
from sessions.core.experience import Seen
from sessions.core.fitting import BINS, ENOUGH, SHIPPED, Fit, Judged, Row, Shares, fit
from sessions.errors import ConfigurationError
from sessions.translate import storage_errors
from storage import Activity, SessionMissing, Store

CALLS = 100_000
"""Answered calls that are looked at, the newest."""
PAGE = 200
"""Sessions of an owner that are read at a time."""
WINDOWS_IN_WORDS = {300.0: "five minutes", 3600.0: "an hour"}


def fit_ledger(
    write: Annotated[
        Path | None, typer.Option("--write", help="Write it to a file, for SessionManager(prior=…) elsewhere.")
    ] = None,
    force: ForceOption = False,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show when users come back, as the ledger tells it, beside the shipped prior, and how well it forecasts."""
    if write is not None:
        check(write, force=force, never=files_of(store))
    rows, names = anyio.run(_read, reading(store), owner)
    now = SystemClock().now()
    found = fit([Seen(row.session, row.turn, row.prompt, row.started) for row in rows], now)
    if as_json:
        print_json({"shipped": SHIPPED, "names": names, **_document(found)})
    else:
        _print(found, names)
    if write is None:
        return
    if not found.priors:
        raise ConfigurationError(f"nothing was written: {found.rows[0].gaps} gaps are known, {ENOUGH} are needed")
    fitted_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    with writing(write, force=force, never=files_of(store)) as draft:
        draft.write_text(prior_text(found.priors, fitted_at), encoding="utf-8")
    if not as_json:
        console.print(f"{len(found.priors)} kinds of sessions in {write}.", soft_wrap=True, markup=False)


async def _read(store: Store, owner: str | None) -> tuple[list[Activity], dict[str, str]]:
    """The newest calls of turns, oldest first, and a name for each settings that they were made with."""
    with storage_errors():
        await store.open()
        try:
            rows: Sequence[Activity] = await store.activity(limit=CALLS)
            if owner is not None:
                own = await _sessions_of(store, owner)
                rows = [row for row in rows if row.session in own]
            newest = {row.prompt: row.session for row in rows}
            return list(rows), {digest: await _name(store, session, digest) for digest, session in newest.items()}
        finally:
            await store.close()


async def _sessions_of(store: Store, owner: str) -> set[str]:
    found: list[str] = []
    while page := await store.list(owner=owner, limit=PAGE, before=found[-1] if found else None):
        found += [record.id for record in page]
    return set(found)


async def _name(store: Store, session: str, digest: str) -> str:
    """The agent of a session with these settings, or their model, and the beginning of the digest."""
    try:
        metadata = json.loads((await store.load(session)).metadata)
        settings = json.loads(await store.prompt(session, digest) or "{}")
    except (SessionMissing, ValueError):
        return digest[:8]
    agent = metadata.get("agent") if isinstance(metadata, dict) else None
    model = settings.get("model") if isinstance(settings, dict) else None
    name = next((one for one in (agent, model) if isinstance(one, str) and one), "")
    return f"{name} {digest[:8]}".strip()


def _document(found: Fit) -> dict[str, Any]:
    return {
        "sessions": found.sessions,
        "calls": found.requests,
        "since": found.since,
        "rows": [{"enough": row.enough, **_plain(row)} for row in found.rows],
        "few": found.few,
        "judged": found.judged,
    }


def _plain(row: Row) -> dict[str, Any]:
    return {"settings": row.settings, "turns": row.turns, "gaps": row.gaps, "seen": row.seen, "used": row.used}


def _print(found: Fit, names: dict[str, str]) -> None:
    whole = found.rows[0]
    since = f" since {moment(found.since)}" if found.since is not None else ""
    console.print(f"{found.sessions:,} sessions, {found.requests:,} calls{since}: {whole.gaps:,} gaps between turns")
    if not whole.enough:
        console.print(f"Too little data: below {ENOUGH} gaps the shipped prior weighs more than what was seen.")
    _print_rows(found.rows, names)
    if found.few:
        console.print(f"{found.few} other settings have fewer than {ENOUGH} gaps: they go by all sessions together.")
    if not found.judged:
        console.print(f"Too little data to judge it: at least {ENOUGH} gaps newer than those fitted are needed.")
    for judged in found.judged:
        _print_judged(judged)


def _print_rows(rows: Sequence[Row], names: dict[str, str]) -> None:
    table = plain_table(
        "back after the last request", ">gaps", ">in 5 min", ">in 1 h", ">never", ">plan: 5 min", ">1 h", ">never"
    )
    few = False
    for row in rows:
        name = names.get(row.settings, row.settings) if row.settings is not None else "all sessions"
        label = escape(name) if row.turns is None else f"  after turn {row.turns}"
        few = few or not row.enough
        used = ("", "", "") if row.used is None else _cells(row.used)
        gaps = f"{row.gaps:,}" if row.enough else f"{row.gaps:,} *"
        table.add_row(label, gaps, *_cells(row.seen), *used, style="bold" if row.turns is None else None)
    table.add_row("the shipped prior", "", "", "", "", *_cells(SHIPPED))
    print_table(table)
    if few:
        console.print(f"* fewer than {ENOUGH} gaps: in plans, what was known before weighs more")


def _cells(shares: Shares) -> tuple[str, ...]:
    return tuple("–" if one is None else f"{one:.0%}" for one in (shares.soon, shares.hour, shares.never))


def _print_judged(judged: Judged) -> None:
    """What the older gaps said of the newer ones, and what came."""
    words = WINDOWS_IN_WORDS[judged.seconds]
    table = plain_table(f"back within {words}", ">gaps", ">forecast", ">came")
    for one in judged.bins:
        place = min(BINS - 1, int(one.told * BINS))
        label = f"  forecast at {place / BINS:.0%} to {(place + 1) / BINS:.0%}"
        table.add_row(label, f"{one.gaps:,}", f"{one.told:.0%}", f"{one.happened:.0%}")
    table.add_row("all", f"{judged.gaps:,}", *(f"{one:.0%}" for one in _means(judged)), style="bold")
    print_table(table)
    console.print(
        f"Brier score {judged.learnt:.3f}, with the shipped prior {judged.shipped:.3f} (0 is perfect): the older gaps "
        "forecast the newer ones.",
        soft_wrap=True,
    )


def _means(judged: Judged) -> tuple[float, float]:
    told = sum(one.gaps * one.told for one in judged.bins)
    return told / judged.gaps, sum(one.gaps * one.happened for one in judged.bins) / judged.gaps
