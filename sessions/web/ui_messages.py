"""Answers as messages of the AI SDK: a turn's pieces as chunks of its stream, and what is stored as its messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from sse_starlette import ServerSentEvent

from sessions import Ended, Session, SessionsError, Turn
from sessions.web import shown
from sessions.web.files import url_of
from sessions.web.front_ends import (
    UNDER_WAY,
    Exchange,
    exchanges,
    words_in,
)
from sessions.web.models import ShownMiss, Tokens
from sessions.web.pieces import (
    ASKED,
    SERVER_CALLS,
    Closed,
    More,
    Opened,
    Over,
    Piece,
    Pieces,
    Progress,
    ReplyBegun,
    ReplyVoid,
    Result,
    Waiting,
    is_error_of_server,
    pieces_of,
    text_of,
)
from sessions.web.streams import encoded

DONE = "[DONE]"
_FINISHED = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "tool_use": "tool-calls",
}


# -- what is told --


def metadata(
    turn: str,
    session: str,
    state: str,
    stop_reason: str | None,
    usage: Tokens,
    cost: str | None,
    miss: ShownMiss | None,
) -> dict[str, Any]:
    """What an answer's message says of its turn. `cost` is USD as a decimal text."""
    return {
        "session": session, "turn": turn, "state": state, "stop_reason": stop_reason, "cost": cost,
        "tokens": {
            "read": usage.cache_read, "written": usage.cache_write_5m + usage.cache_write_1h,
            "uncached": usage.input, "output": usage.output,
        },
        "miss": None if miss is None else miss.model_dump(),
    }  # fmt: skip


def _of_ended(turn: Turn, end: Ended) -> dict[str, Any]:
    usage, cost, miss = shown.tokens(end.usage), shown.money(end.cost), shown.miss(end.miss)
    return metadata(turn.id, turn.session_id, end.state, end.stop_reason, usage, cost, miss)


class Chunks:
    """The pieces of a turn as chunks of its message."""

    def __init__(self) -> None:
        self._has_step = False

    def of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a piece adds to the message; how a turn ends is told by `ends`."""
        if isinstance(piece, ReplyBegun):
            yield from self.step_ends()
            self._has_step = True
            yield {"type": "start-step"}
        elif isinstance(piece, Opened | More | Closed):
            yield from _of_block(piece)
        elif isinstance(piece, ReplyVoid):
            yield {"type": "reset-step"}
        elif isinstance(piece, Progress):
            yield _output(piece.tool_use_id, piece.text, preliminary=True)
        elif isinstance(piece, Result):
            yield _result(piece.tool_use_id, piece.content, is_error=piece.is_error)
        elif isinstance(piece, Waiting):
            for call in piece.calls:
                yield {"type": "tool-approval-request", "approvalId": call.call_id, "toolCallId": call.tool_use_id}

    def step_ends(self) -> Iterator[dict[str, Any]]:
        """The end of the step, where one has begun. A step is a reply with the results of its tools."""
        if self._has_step:
            self._has_step = False
            yield {"type": "finish-step"}

    def ends(self, end: Ended, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The end of the message, with what is `told` of the turn."""
        yield from self.step_ends()
        if end.state in ("finished", "waiting"):
            reason = _FINISHED.get(end.stop_reason or "", "other")
            yield {"type": "finish", "finishReason": reason, "messageMetadata": told}
            return
        yield {"type": "message-metadata", "messageMetadata": told}
        if end.state == "cancelled":
            yield {"type": "abort", "reason": "stopped"}
        else:
            yield {"type": "error", "errorText": end.error or f"the turn is {end.state}"}


def _of_block(piece: Opened | More | Closed) -> Iterator[dict[str, Any]]:
    kind = str(piece.block.get("type"))
    if kind in ("text", "thinking"):
        name = "text" if kind == "text" else "reasoning"
        if isinstance(piece, More):
            yield {"type": f"{name}-delta", "id": piece.place, "delta": piece.text}
        else:
            yield {"type": f"{name}-{'start' if isinstance(piece, Opened) else 'end'}", "id": piece.place}
    elif kind in ASKED:
        yield _of_call(piece, is_server=kind in SERVER_CALLS)
    elif "tool_use_id" in piece.block and isinstance(piece, Closed):
        # What a tool of the API's gave: a block of the reply itself.
        content = piece.block.get("content")
        is_error = is_error_of_server(content)
        yield {**_result(piece.block["tool_use_id"], content, is_error=is_error), "providerExecuted": True}


def _of_call(piece: Opened | More | Closed, *, is_server: bool) -> dict[str, Any]:
    id = piece.block["id"]
    if isinstance(piece, More):
        return {"type": "tool-input-delta", "toolCallId": id, "inputTextDelta": piece.text}
    call: dict[str, Any] = {"toolCallId": id, "toolName": piece.block["name"], "dynamic": True}
    if is_server:
        call["providerExecuted"] = True
    if isinstance(piece, Opened):
        return {"type": "tool-input-start", **call}
    return {"type": "tool-input-available", **call, "input": piece.block.get("input")}


def _result(id: str, content: Any, *, is_error: bool) -> dict[str, Any]:
    if is_error:
        return {"type": "tool-output-error", "toolCallId": id, "errorText": text_of(content), "dynamic": True}
    is_text = not isinstance(content, list) or all(block.get("type") == "text" for block in content)
    return _output(id, text_of(content) if is_text and not isinstance(content, dict) else shown.result(content))


def _output(id: str, output: Any, *, preliminary: bool = False) -> dict[str, Any]:
    chunk = {"type": "tool-output-available", "toolCallId": id, "output": output, "dynamic": True}
    return {**chunk, "preliminary": True} if preliminary else chunk


async def stream_of(turn: Turn, known: str | None = None) -> AsyncGenerator[ServerSentEvent]:
    """A turn's message as it comes, from its beginning; behind the entry `known`, what the message goes on with."""
    chunks = Chunks()
    about = {"session": turn.session_id, "turn": turn.id}
    yield _event({"type": "start", "messageId": turn.id, "messageMetadata": about})
    try:
        async with aclosing(pieces_of(turn, Pieces(known))) as pieces:
            async for piece in pieces:
                if isinstance(piece, Over):
                    found: Iterable[dict[str, Any]] = chunks.ends(piece.end, _of_ended(turn, piece.end))
                else:
                    found = chunks.of(piece)
                for chunk in found:
                    yield _event(chunk)
    except SessionsError as error:  # this worker ends, or the conversation is gone
        yield _event({"type": "error", "errorText": f"{error}: load the conversation again"})
    yield ServerSentEvent(DONE, sep="\n")


def _event(chunk: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(encoded(chunk), sep="\n")


# -- messages --


class Parts:
    """The parts of an answer's message, made of the same chunks that a page makes them of."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []

    def add(self, chunk: Mapping[str, Any]) -> None:
        """What a chunk of a stored answer adds."""
        kind = chunk["type"]
        if kind == "start-step":
            self.parts.append({"type": "step-start"})
        elif kind == "text-start":
            self.parts.append({"type": "text", "text": "", "state": "done"})
        elif kind == "reasoning-start":
            self.parts.append({"type": "reasoning", "id": chunk["id"], "text": "", "state": "done"})
        elif kind in ("text-delta", "reasoning-delta"):
            self.parts[-1]["text"] += chunk["delta"]
        elif "toolCallId" in chunk:
            self._of_call(kind, chunk)

    def _of_call(self, kind: str, chunk: Mapping[str, Any]) -> None:
        if kind == "tool-input-start":
            call = {"type": "dynamic-tool", "toolName": chunk["toolName"], "toolCallId": chunk["toolCallId"]}
            if "providerExecuted" in chunk:
                call["providerExecuted"] = True
            self.parts.append(call)
            return
        call = next(part for part in reversed(self.parts) if part.get("toolCallId") == chunk["toolCallId"])
        if kind == "tool-input-available":
            call.update(state="input-available", input=chunk["input"])
        elif kind == "tool-approval-request":
            call.update(state="approval-requested", approval={"id": chunk["approvalId"]})
        elif kind == "tool-output-available":
            call.update(state="output-available", output=chunk["output"])
        elif kind == "tool-output-error":
            call.update(state="output-error", errorText=chunk["errorText"])


async def messages_of(session: Session, root: str) -> list[dict[str, Any]]:
    """A conversation as UI messages. `root`: where the application is mounted, for the URLs of files.

    The answer of a turn that is under way is left out: its stream brings it, from its beginning.
    """
    ledger = {call.id: call for call in await session.calls()}
    messages: list[dict[str, Any]] = []
    for exchange in exchanges(session, await session.turns()):
        if exchange.words is not None:
            messages.append(_words_of(session, exchange, root))
        told = None if exchange.turn is None else shown.turn(exchange.turn, ledger)
        if told is not None and told.state in UNDER_WAY:
            continue
        parts = _parts_of(session, exchange, is_waiting=told is not None and told.state == "waiting")
        if parts:
            message: dict[str, Any] = {"id": exchange.id, "role": "assistant", "parts": parts}
            if told is not None:
                message["metadata"] = metadata(
                    told.id, session.id, told.state, told.stop_reason, told.usage, told.cost, told.miss
                )
            messages.append(message)
    return messages


def _parts_of(session: Session, exchange: Exchange, *, is_waiting: bool) -> list[dict[str, Any]]:
    chunks, parts = Chunks(), Parts()
    for piece in Pieces().stored(exchange.answer, session.pending if is_waiting else ()):
        for chunk in chunks.of(piece):
            parts.add(chunk)
    return parts.parts


def _words_of(session: Session, exchange: Exchange, root: str) -> dict[str, Any]:
    assert exchange.words is not None
    parts: list[dict[str, Any]] = []
    for place, block in words_in(exchange.words):
        if block.get("type") == "text":
            parts.append({"type": "text", "text": block["text"]})
        elif block.get("type") in ("image", "document"):
            source = block.get("source") or {}
            url = f"{root}/{url_of(session.id, exchange.words.id, place)}"
            part: dict[str, Any] = {"type": "file", "mediaType": source.get("media_type", "text/plain"), "url": url}
            parts.append({**part, "filename": block["title"]} if block.get("title") else part)
    return {"id": exchange.name, "role": "user", "parts": parts}
