"""What is stored of a conversation, read as a whole: exported, checked, and the chains that summaries stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sessions.conversation.entries import Damage, first_damage, read_entry, read_messages
from sessions.core.transcript import Entry
from sessions.ledger import Cost
from storage import EntryRecord, SessionMissing, Store
from storage.values import NO_LIMIT


async def exported(store: Store, session: str) -> list[dict[str, Any]]:
    """The history as plain Messages JSON."""
    record = await store.load(session)
    return read_messages(await store.chain(session, record.head))


async def damage_of(store: Store, session: str) -> Damage | None:
    """The first entry that is not as it was written, earlier chains included; `None` where all are."""
    record = await store.load(session)
    rows = await store.chain(session, record.head)
    chains = await earlier_chains(store, session, rows[0].id if rows else None)
    return next((damage for chain in (*chains, rows) if (damage := first_damage(chain)) is not None), None)


async def entries_before(store: Store, session: str, present: Sequence[Entry]) -> list[Entry]:
    """The entries that compactions have replaced, oldest first. `present`: the present chain."""
    root = present[0].id if present else None
    return [read_entry(row) for chain in await earlier_chains(store, session, root) for row in chain]


async def summarized(store: Store, session: str, root: str) -> str | None:
    """The entry at which the chain ended that the summary `root` stands for; forks look at where they come from."""
    asked: str | None = session
    while asked is not None:
        for turn in await store.turns(asked):
            if turn.reply == root and turn.stop_reason == "compaction":
                return turn.base
        try:
            asked = (await store.load(asked)).forked_from
        except SessionMissing:
            # It has been deleted, with the row that said what the summary stands for.
            return None
    return None


async def earlier_chains(store: Store, session: str, root: str | None) -> list[list[EntryRecord]]:
    """The chains that summaries stand for, oldest first, starting from the first entry of the present one."""
    chains: list[list[EntryRecord]] = []
    while root is not None and (head := await summarized(store, session, root)) is not None:
        chains.insert(0, await store.chain(session, head))
        root = chains[0][0].id
    return chains


async def cost_of_family(store: Store, session: str) -> Cost:
    """What a session, its forks, branches and subagents, and theirs, have cost together."""
    total, family = Cost(), [session]
    while family:
        member = family.pop()
        groups = await store.totals(None, session=member)
        total = sum((Cost.of_group(group) for group in groups), start=total)
        family += [child.id for child in await store.list(parent=member, limit=NO_LIMIT)]
    return total
