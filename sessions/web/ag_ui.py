"""AG-UI 1.0: `POST /ag-ui/{agent}` takes a `RunAgentInput` and answers with the run's events.

A thread is a conversation, a run the stream of one turn. Of the input the newest message of the user is taken, or the
answers to interrupts, which are decisions on calls that wait; history, state, tools and context are the server's own.
A message id that is sent again is the same turn: a client that was cut off runs again as it is, and has all of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from ag_ui.core import (
    AssistantMessage,
    BaseEvent,
    CustomEvent,
    DataSource,
    DocumentPart,
    FunctionCall,
    ImagePart,
    Interrupt,
    Message,
    MessagesSnapshotEvent,
    ReasoningEndEvent,
    ReasoningMessage,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextPart,
    TokenUsage,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UrlSource,
    UserMessage,
)
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sessions import Ended, Entry, PendingCall, Session, SessionsError, Turn, Usage
from sessions.web import shown
from sessions.web.access import owner_of
from sessions.web.api.endpoints import sent
from sessions.web.chats import Chats
from sessions.web.files import url_of
from sessions.web.front_ends import (
    Exchange,
    check_message,
    decide,
    exchanges,
    file_of,
    say,
    stored_file,
    turn_named,
    words_in,
)
from sessions.web.models import Decision, File, Part, Text
from sessions.web.pieces import (
    ASKED,
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
    Used,
    Waiting,
    is_error_of_server,
    pieces_of,
    text_of,
)
from sessions.web.problems import NOT_FOUND, Refused
from sessions.web.service import Service
from sessions.web.streams import EventStream, encoded

VERSION = "1.0"
LONGEST_ID = 200
APPROVAL = "tool_approval"
"""The reason of an interrupt: a tool call waits for the user."""
PROGRESS = "warmline.tool_progress"
"""The name of the event with which a tool says how far it is."""
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "description": "told to the model where it is not approved"},
        "input": {"type": "object", "description": "takes the place of the call's input"},
    },
    "required": ["approved"],
}
"""JSON Schema of the answer to such an interrupt."""


# -- what is sent --


def content_of(message: UserMessage, session: Session | None) -> list[Part]:
    """The words and files of a message; the files of a stored one may come as our own URLs."""
    if isinstance(message.content, str):
        return [Text(type="text", text=message.content)]
    content: list[Part] = []
    for part in message.content:
        if isinstance(part, TextPart):
            if part.text:
                content.append(Text(type="text", text=part.text))
        elif isinstance(part, ImagePart | DocumentPart) and isinstance(part.source, DataSource):
            content.append(File(type="file", name="file", media_type=part.source.mime_type, data=part.source.value))
        elif isinstance(part, ImagePart | DocumentPart) and isinstance(part.source, UrlSource):
            stored = None if session is None else stored_file(session, part.source.value)
            content.append(stored or file_of(part.source.value, part.source.mime_type, None))
        else:
            raise Refused(415, "only text, images and documents are taken, with their data")
    if not content:
        raise Refused(422, "the newest message has no words and no files")
    return content


def decision_of(answer: ResumeEntry) -> Decision:
    """The answer to an interrupt; one that was abandoned is a denial. Raises `Refused`."""
    payload = answer.payload
    if answer.status == "cancelled":
        return Decision(call_id=answer.interrupt_id, approve=False)
    given = payload if isinstance(payload, dict) else {"approved": payload}
    if not isinstance(given.get("approved"), bool):
        raise Refused(422, 'an answer to an interrupt must say {"approved": true} or {"approved": false}')
    approve = given["approved"]
    # An answer may fill in all that the schema names.
    kept = {"input": given.get("input")} if approve else {"reason": given.get("reason") or None}
    return Decision.model_validate({"call_id": answer.interrupt_id, "approve": approve, **kept})


# -- what is told --


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


class Run:
    """One run: the stream of a turn, or of what it goes on with behind the entry `known`."""

    def __init__(self, chats: Chats, turn: Turn, asked: RunAgentInput, root: str, known: str | None = None) -> None:
        self._chats, self._turn, self._asked, self._root = chats, turn, asked, root
        self._goes_on = known is not None
        # What a client has of a turn that it was cut off from would be added to.
        self._comes_back = not self._goes_on and any(_is_of(message, turn.id) for message in asked.messages)
        tag = f".{blake2b(asked.run_id.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"
        self._pieces, self._events = Pieces(known), Events(turn.id, tag if self._comes_back else "")
        self._used = Usage()
        self._waiting: tuple[PendingCall, ...] = ()

    async def events(self) -> AsyncGenerator[ServerSentEvent]:
        """Its events."""
        asked = self._asked
        yield _event(RunStartedEvent(thread_id=asked.thread_id, run_id=asked.run_id, protocol_version=VERSION))
        try:
            if self._comes_back:
                yield _event(MessagesSnapshotEvent(messages=await self._messages()))
            async with aclosing(pieces_of(self._turn, self._pieces)) as pieces:
                async for piece in pieces:
                    for event in self._events.of(piece):
                        yield _event(event)
                    if isinstance(piece, Used):
                        self._used += piece.usage
                    elif isinstance(piece, Waiting):
                        self._waiting += piece.calls
                    elif isinstance(piece, ReplyVoid):
                        # Nothing else takes back what was said: the messages as they are without it.
                        yield _event(MessagesSnapshotEvent(messages=await self._messages()))
                    elif isinstance(piece, Over):
                        yield _event(self._end(piece.end))
        except SessionsError as error:  # this worker ends, or the conversation is gone
            yield _event(RunErrorEvent(message=f"{error}: send the message again to come back", code="cut_off"))

    async def _messages(self) -> list[Message]:
        session = await self._chats.read(self._turn.session_id)
        found: list[Message] = []
        for exchange in exchanges(session, await session.turns()):
            # What is stored meanwhile is told as it came.
            own = exchange.id == self._turn.id
            answer = [entry for entry in exchange.answer if not own or entry.id in self._pieces.told]
            found += messages_of(session, exchange, answer, self._root)
        return found

    def _end(self, end: Ended) -> BaseEvent:
        used = self._used if self._goes_on else end.usage
        usage = [_usage(used)]
        if end.state in ("failed", "interrupted"):
            return RunErrorEvent(message=end.error or f"the turn is {end.state}", code=end.state, usage=usage)
        outcome: RunFinishedCancelledOutcome | RunFinishedInterruptOutcome | RunFinishedSuccessOutcome
        if end.state == "cancelled":
            outcome = RunFinishedCancelledOutcome()
        elif end.state == "waiting" and self._waiting:
            outcome = RunFinishedInterruptOutcome(interrupts=[_interrupt(call) for call in self._waiting])
        else:
            outcome = RunFinishedSuccessOutcome()
        lost = shown.miss(end.miss)
        result = {
            "session": self._turn.session_id,
            "turn": self._turn.id,
            "state": end.state,
            "stopReason": end.stop_reason,
            "cost": shown.money(end.cost),
            "miss": None if lost is None else lost.model_dump(),
        }
        return RunFinishedEvent(
            thread_id=self._asked.thread_id, run_id=self._asked.run_id, result=result, outcome=outcome, usage=usage
        )


def _is_of(message: Message, turn: str) -> bool:
    """Whether it is of this turn's answer."""
    return message.id.startswith(f"{turn}-")


def _interrupt(call: PendingCall) -> Interrupt:
    return Interrupt(
        id=call.call_id,
        reason=APPROVAL,
        message=f"May {call.name} run?",
        tool_call_id=call.tool_use_id,
        response_schema=ANSWER,
        metadata={"name": call.name, "input": call.input},
    )


def _usage(used: Usage) -> TokenUsage:
    written = used.cache_write_5m + used.cache_write_1h
    taken = used.input + used.cache_read + written
    return TokenUsage(
        provider="anthropic",
        input_tokens=taken,
        output_tokens=used.output,
        total_tokens=taken + used.output,
        cached_input_tokens=used.cache_read,
        cache_write_input_tokens=written,
    )


def _event(event: BaseEvent) -> ServerSentEvent:
    return ServerSentEvent(event.model_dump_json(by_alias=True), sep="\n")


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


# -- routes --


class AgUi:
    """What is asked by front ends that speak this protocol."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def routes(self) -> list[Route]:
        return [Route("/ag-ui/{agent}", self.run, methods=["POST"])]

    async def run(self, request: Request) -> Response:
        chats, asked = self._service.chats(request), await sent(request, RunAgentInput)
        assert isinstance(asked, RunAgentInput)
        agent = chats.agent(request.path_params["agent"])
        if not 1 <= len(asked.thread_id) <= LONGEST_ID:
            raise Refused(422, f"threadId must have 1 to {LONGEST_ID} characters")
        session = await chats.known(asked.thread_id)
        root = str(request.scope.get("root_path", ""))
        if asked.resume:
            if session is None:
                raise Refused(404, NOT_FOUND)
            turn, known = await decide(chats, session, [decision_of(answer) for answer in asked.resume])
            return self._stream(request, Run(chats, turn, asked, root, known))
        newest = await _newest(asked.messages, session)
        content = content_of(newest, session)
        if session is None:
            check_message(newest.id, content, self._service.counts.limits)
            session = await chats.opened(asked.thread_id, agent)
        return self._stream(request, Run(chats, await say(chats, session, newest.id, content), asked, root))

    def _stream(self, request: Request, run: Run) -> Response:
        return EventStream(run.events(), self._service.counts.stream(owner_of(request)))


async def _newest(messages: Sequence[Message], session: Session | None) -> UserMessage:
    """The user's newest message. What we have said of its answer may stand behind it, of a run that was cut off."""
    place = next((place for place in reversed(range(len(messages))) if isinstance(messages[place], UserMessage)), None)
    newest = None if place is None else messages[place]
    if not isinstance(newest, UserMessage) or not 1 <= len(newest.id) <= LONGEST_ID:
        raise Refused(422, f"the newest message must be the user's, with an id of at most {LONGEST_ID} characters")
    behind = messages[place + 1 :] if place is not None else []
    turn = None if not behind or session is None else turn_named(await session.turns(), newest.id)
    if behind and (turn is None or not all(_is_of(message, turn.id) for message in behind)):
        raise Refused(422, "the newest message must be the user's: answers and results of tools are the server's own")
    return newest
