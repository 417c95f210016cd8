"""A turn's pieces as events of AG-UI, and what is stored as the messages that these events add up to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ag_ui.core import (
    AssistantMessage,
    BaseEvent,
    CustomEvent,
    DocumentPart,
    FunctionCall,
    ImagePart,
    Message,
    ReasoningEndEvent,
    ReasoningMessage,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextPart,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UrlSource,
    UserMessage,
)

from sessions import Entry, Session
from sessions.web import shown
from sessions.web.files import url_of
from sessions.web.front_ends import (
    Exchange,
    words_in,
)
from sessions.web.pieces import (
    ASKED,
    Closed,
    More,
    Opened,
    Piece,
    Pieces,
    Progress,
    ReplyBegun,
    ReplyVoid,
    Result,
    is_error_of_server,
    text_of,
)
from sessions.web.streams import encoded

PROGRESS = "warmline.tool_progress"
"""The name of the event with which a tool says how far it is."""


class Events:
    """The pieces of a turn as events of a run. `tag`: what tells its ids from those that the client has already."""

    def __init__(self, turn: str, tag: str = "") -> None:
        self._turn, self._tag, self._tries = turn, tag, 0
        self._open: dict[str, Opened] = {}
        self._has_input: set[str] = set()
        self._said: str | None = None

    def of(self, piece: Piece) -> Iterator[BaseEvent]:
        """What a piece adds."""
        if isinstance(piece, Opened):
            yield from self._opened(piece)
        elif isinstance(piece, More):
            yield from self._more(piece)
        elif isinstance(piece, Closed):
            yield from self._closed(piece)
        elif isinstance(piece, ReplyVoid):
            for place in list(self._open):
                yield from self._ends(place)
            self._tries, self._said = self._tries + 1, None
        elif isinstance(piece, ReplyBegun):
            self._said = None
        elif isinstance(piece, Progress):
            yield CustomEvent(name=PROGRESS, value={"toolCallId": piece.tool_use_id, "text": piece.text})
        elif isinstance(piece, Result):
            yield self._result(piece.tool_use_id, piece.content, is_error=piece.is_error)

    def _id(self, place: str) -> str:
        # A client keeps reasoning that is void, and would add to it what comes under the same id.
        return f"{self._turn}-{place}{self._tag}{f'~{self._tries}' if self._tries else ''}"

    def _opened(self, piece: Opened) -> Iterator[BaseEvent]:
        kind, id = piece.block.get("type"), self._id(piece.place)
        if kind == "text":
            self._said = id
            yield TextMessageStartEvent(message_id=id, role="assistant")
        elif kind == "thinking":
            yield ReasoningStartEvent(message_id=id)
            yield ReasoningMessageStartEvent(message_id=id, role="reasoning")
        elif kind in ASKED:
            step, _, _ = piece.place.partition("-")
            yield ToolCallStartEvent(
                tool_call_id=piece.block["id"],
                tool_call_name=piece.block["name"],
                parent_message_id=self._said or self._id(step),
            )
        else:
            return
        self._open[piece.place] = piece

    def _more(self, piece: More) -> Iterator[BaseEvent]:
        kind, id = piece.block.get("type"), self._id(piece.place)
        if kind == "text":
            yield TextMessageContentEvent(message_id=id, delta=piece.text)
        elif kind == "thinking":
            yield ReasoningMessageContentEvent(message_id=id, delta=piece.text)
        else:
            self._has_input.add(piece.place)
            yield ToolCallArgsEvent(tool_call_id=piece.block["id"], delta=piece.text)

    def _closed(self, piece: Closed) -> Iterator[BaseEvent]:
        if piece.place in self._open:
            if piece.block.get("type") in ASKED and piece.place not in self._has_input:
                yield ToolCallArgsEvent(tool_call_id=piece.block["id"], delta=encoded(piece.block.get("input")))
            yield from self._ends(piece.place)
        elif "tool_use_id" in piece.block:
            # What a tool of the API's gave: a block of the reply itself.
            content = piece.block.get("content")
            is_error = is_error_of_server(content)
            yield self._result(piece.block["tool_use_id"], content, is_error=is_error)

    def _ends(self, place: str) -> Iterator[BaseEvent]:
        piece, id = self._open.pop(place), self._id(place)
        self._has_input.discard(place)
        kind = piece.block.get("type")
        if kind == "text":
            yield TextMessageEndEvent(message_id=id)
        elif kind == "thinking":
            yield ReasoningMessageEndEvent(message_id=id)
            yield ReasoningEndEvent(message_id=id)
        else:
            yield ToolCallEndEvent(tool_call_id=piece.block["id"])

    def _result(self, call: str, content: Any, *, is_error: bool) -> BaseEvent:
        return ToolCallResultEvent(
            message_id=f"{self._turn}-{call}",
            tool_call_id=call,
            content=text_of(shown.result(content)),
            role="tool",
            metadata={"isError": True} if is_error else None,
        )


# -- messages --


def messages_of(session: Session, exchange: Exchange, answer: Sequence[Entry], root: str) -> list[Message]:
    """The messages of an exchange, with the ids that they have where they are streamed."""
    found: list[Message] = [] if exchange.words is None else [_words_of(session, exchange, root)]
    events = Events(exchange.id)
    for piece in Pieces().stored(answer):
        for event in events.of(piece):
            _add(found, event)
    return found


def _add(messages: list[Message], event: BaseEvent) -> None:
    """What an event of a stored answer makes of the messages."""
    if isinstance(event, TextMessageStartEvent):
        messages.append(AssistantMessage(id=event.message_id, content=""))
    elif isinstance(event, ReasoningMessageStartEvent):
        messages.append(ReasoningMessage(id=event.message_id, content=""))
    elif isinstance(event, TextMessageContentEvent | ReasoningMessageContentEvent):
        said = messages[-1]
        assert isinstance(said, AssistantMessage | ReasoningMessage)
        said.content = (said.content or "") + event.delta
    elif isinstance(event, ToolCallStartEvent):
        call = ToolCall(id=event.tool_call_id, function=FunctionCall(name=event.tool_call_name, arguments=""))
        same = next((one for one in messages if one.id == event.parent_message_id), None)
        if isinstance(same, AssistantMessage):
            same.tool_calls = [*(same.tool_calls or []), call]
        else:
            messages.append(AssistantMessage(id=str(event.parent_message_id), tool_calls=[call]))
    elif isinstance(event, ToolCallArgsEvent):
        asking = next(one for one in reversed(messages) if isinstance(one, AssistantMessage) and one.tool_calls)
        assert asking.tool_calls is not None
        asking.tool_calls[-1].function.arguments += event.delta
    elif isinstance(event, ToolCallResultEvent):
        messages.append(ToolMessage(id=event.message_id, tool_call_id=event.tool_call_id, content=event.content))


def _words_of(session: Session, exchange: Exchange, root: str) -> UserMessage:
    assert exchange.words is not None
    parts: list[Any] = []
    for place, block in words_in(exchange.words):
        if block.get("type") == "text":
            parts.append(TextPart(text=block["text"]))
        elif block.get("type") in ("image", "document"):
            url = f"{root}/{url_of(session.id, exchange.words.id, place)}"
            source = UrlSource(value=url, mime_type=(block.get("source") or {}).get("media_type"))
            parts.append(ImagePart(source=source) if block["type"] == "image" else DocumentPart(source=source))
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return UserMessage(id=exchange.name, content=parts[0].text)
    return UserMessage(id=exchange.name, content=parts)
