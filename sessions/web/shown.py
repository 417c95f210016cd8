"""Conversations as they are told to a page: blocks fit to be shown, events, turns, costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sessions import (
    ApprovalNeeded,
    BlockSoFar,
    BlockStart,
    BlockStop,
    Call,
    Cost,
    Delta,
    Ended,
    Entry,
    EntryStored,
    Miss,
    PendingCall,
    Session,
    SessionInfo,
    Snapshot,
    ToolResult,
    TurnEvent,
    TurnInfo,
    Usage,
    UsageKnown,
)
from sessions.web.files import url_of
from sessions.web.markdown import QUICK, html_of
from sessions.web.models import (
    Loss,
    SessionItem,
    ShownCall,
    ShownCost,
    ShownEntry,
    ShownMiss,
    ShownTurn,
    Tokens,
)

_DROPPED = frozenset({"signature", "cache_control"})


def money(amount: Decimal | None) -> str | None:
    """USD as a decimal text, without exponents; `None` where the price is not known."""
    return None if amount is None else f"{amount:f}"


def tokens(usage: Usage) -> Tokens:
    return Tokens(
        input=usage.input,
        cache_read=usage.cache_read,
        cache_write_5m=usage.cache_write_5m,
        cache_write_1h=usage.cache_write_1h,
        output=usage.output,
    )


def miss(found: Miss | None) -> ShownMiss | None:
    if found is None:
        return None
    return ShownMiss(cause=found.cause, message=found.sentence, tokens=found.tokens, cost=money(found.cost))


def calls(pending: Iterable[PendingCall]) -> list[ShownCall]:
    return [
        ShownCall(
            call_id=call.call_id, tool_use_id=call.tool_use_id, name=call.name, input=call.input,
            by_caller=call.by_caller,
        )
        for call in pending
    ]  # fmt: skip


# -- entries --


def entry(one: Entry, session: str) -> ShownEntry:
    """An entry of a session: `url`s are relative to the application's root."""
    blocks = [block(each, url_of(session, one.id, place)) for place, each in enumerate(one.content)]
    return ShownEntry(id=one.id, role=one.role, blocks=blocks)


def block(one: Mapping[str, Any], url: str | None = None) -> dict[str, Any]:
    """A block of the API's, fit to be shown. `url`: where the bytes of a file are."""
    kept = {name: value for name, value in one.items() if name not in _DROPPED}
    kind = one.get("type")
    if kind == "text":
        kept["html"] = html_of(one["text"])
    elif kind in ("image", "document"):
        kept = _file(one, url)
    elif kind == "tool_result":
        kept["content"] = result(one.get("content"))
    return kept


def result(content: Any) -> Any:
    """What a tool gave: text as it is, of files only what they are."""
    if not isinstance(content, list):
        return content
    return [_file(one, None) if one.get("type") in ("image", "document") else dict(one) for one in content]


def _file(one: Mapping[str, Any], url: str | None) -> dict[str, Any]:
    source = one.get("source") or {}
    return {
        "type": one["type"],
        "name": one.get("title"),
        "media_type": source.get("media_type"),
        "url": url if source.get("type") in ("base64", "text") else None,
    }


# -- events --


class Events:
    """The events of a turn as they are told to one follower: with the HTML of each text when it is whole."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._texts: dict[int, list[str]] = {}

    def may_be_long(self, event: TurnEvent) -> bool:
        """Whether telling of it takes so long that others should not wait for it: texts are rendered."""
        if isinstance(event, BlockStop):
            return sum(map(len, self._texts.get(event.index, ()))) > QUICK
        if isinstance(event, EntryStored):
            return _characters(event.entry) > QUICK
        return isinstance(event, Snapshot) and sum(map(_characters, event.entries)) + _coming(event) > QUICK

    def told(self, event: TurnEvent) -> dict[str, Any] | None:
        """What is told of an event; `None` for one that says nothing to a page."""
        if isinstance(event, Snapshot):
            fields = self._snapshot(event)
        elif isinstance(event, EntryStored):
            self._texts.clear()
            fields = {"entry": entry(event.entry, self._session).model_dump()}
        elif isinstance(event, BlockStart | Delta | BlockStop):
            found = self._of_block(event)
            if found is None:
                return None
            fields = found
        else:
            fields = _of_turn(event)
        return {"type": event.type, "id": event.id, **fields}

    def _of_block(self, event: BlockStart | Delta | BlockStop) -> dict[str, Any] | None:
        if isinstance(event, BlockStart):
            if event.block.get("type") == "text":
                self._texts[event.index] = [event.block.get("text", "")]
            return {"index": event.index, "block": {k: v for k, v in event.block.items() if k not in _DROPPED}}
        if isinstance(event, Delta):
            if event.kind in ("signature", "compaction"):
                return None
            if event.kind == "text" and event.index in self._texts:
                self._texts[event.index].append(event.text)
            return {"index": event.index, "kind": event.kind, "value": event.value}
        text = self._texts.pop(event.index, None)
        return {"index": event.index, "html": None if text is None else html_of("".join(text))}

    def _snapshot(self, event: Snapshot) -> dict[str, Any]:
        self._texts = {
            part.index: [part.block.get("text", "")]
            for part in event.blocks
            if part.block.get("type") == "text" and not part.is_closed
        }
        return {
            "state": event.state,
            "entries": [entry(one, self._session).model_dump() for one in event.entries],
            "blocks": [_so_far(part) for part in event.blocks],
            "tools": [
                {
                    "call_id": tool.call_id, "tool_use_id": tool.tool_use_id, "name": tool.name, "input": tool.input,
                    "progress": list(tool.progress), "result": result(tool.result), "is_error": tool.is_error,
                }
                for tool in event.tools
            ],
            "pending": [call.model_dump() for call in calls(event.pending)],
        }  # fmt: skip


def _characters(one: Entry) -> int:
    return sum(len(block["text"]) for block in one.content if block["type"] == "text")


def _coming(event: Snapshot) -> int:
    return sum(len(part.block.get("text", "")) for part in event.blocks if part.is_closed)


def _so_far(part: BlockSoFar) -> dict[str, Any]:
    shown = block(part.block) if part.is_closed else {k: v for k, v in part.block.items() if k not in _DROPPED}
    return {"index": part.index, "block": shown, "input_json": part.input_json, "is_closed": part.is_closed}


def _of_turn(event: TurnEvent) -> dict[str, Any]:
    if isinstance(event, ToolResult):
        return {
            "call_id": event.call_id, "tool_use_id": event.tool_use_id, "name": event.name,
            "content": result(event.content), "is_error": event.is_error,
        }  # fmt: skip
    if isinstance(event, ApprovalNeeded):
        return {"calls": [call.model_dump() for call in calls(event.calls)]}
    if isinstance(event, UsageKnown):
        return {"usage": tokens(event.usage).model_dump(), "cost": money(event.cost)}
    if isinstance(event, Ended):
        lost = miss(event.miss)
        return {
            "state": event.state, "stop_reason": event.stop_reason, "usage": tokens(event.usage).model_dump(),
            "cost": money(event.cost), "miss": None if lost is None else lost.model_dump(), "error": event.error,
        }  # fmt: skip
    # What a tool does is told as it is: its name and input, how far it is; and that a reply begins anew.
    return {name: value for name, value in json.loads(event.to_json()).items() if name not in ("type", "id")}


# -- sessions, turns, costs --


def item(info: SessionInfo) -> SessionItem:
    """A row of the list."""
    return SessionItem(
        id=info.id, title=info.title, agent=info.metadata.get("agent"), state=info.state, parent=info.parent,
        model=info.model, created_at=info.created_at, updated_at=info.updated_at, turns=info.turns,
        cost=f"{info.cost:f}", usage=tokens(info.usage),
    )  # fmt: skip


def item_of(session: Session, turns: Sequence[TurnInfo], cost: Cost) -> SessionItem:
    """The same of an open session."""
    times = [session.created_at, *(turn.ended or turn.started for turn in turns)]
    return SessionItem(
        id=session.id, title=session.title, agent=session.metadata.get("agent"), state=session.state,
        parent=session.parent, model=session.settings.model, created_at=session.created_at,
        updated_at=max(times), turns=len(turns), cost=f"{cost.total:f}", usage=tokens(cost.usage),
    )  # fmt: skip


def turn(info: TurnInfo, ledger: Mapping[str, Call]) -> ShownTurn:
    """A turn, with the dearest miss among its calls in the ledger."""
    missed = [ledger[id].miss for id in info.calls if id in ledger]
    dearest = max((one for one in missed if one), key=lambda one: one.cost or Decimal(0), default=None)
    return ShownTurn(
        id=info.id, state=info.state, started=info.started, ended=info.ended, entry=info.entry,
        replies=list(info.replies), stop_reason=info.stop_reason, usage=tokens(info.usage), cost=money(info.cost),
        miss=miss(dearest), error=info.error,
    )  # fmt: skip


def cost(found: Cost) -> ShownCost:
    return ShownCost(
        total=f"{found.total:f}",
        by_kind={kind: f"{amount:f}" for kind, amount in found.by_kind.items()},
        usage=tokens(found.usage),
        calls=found.calls,
        unpriced=found.unpriced,
        losses={
            cause: Loss(calls=one.calls, tokens=one.tokens, cost=f"{one.cost:f}") for cause, one in found.losses.items()
        },
    )
