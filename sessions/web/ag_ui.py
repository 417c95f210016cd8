"""AG-UI 1.0: `POST /ag-ui/{agent}` takes a `RunAgentInput` and answers with the run's events.

A thread is a conversation, a run the stream of one turn. Of the input the newest message of the user is taken, or the
answers to interrupts, which are decisions on calls that wait; history, state, tools and context are the server's own.
A message id that is sent again is the same turn: a client that was cut off runs again as it is, and has all of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from ag_ui.core import (
    BaseEvent,
    DataSource,
    DocumentPart,
    ImagePart,
    Interrupt,
    Message,
    MessagesSnapshotEvent,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextPart,
    TokenUsage,
    UrlSource,
    UserMessage,
)
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sessions import Ended, PendingCall, Session, SessionsError, Turn, Usage
from sessions.web import shown
from sessions.web.access import owner_of
from sessions.web.ag_ui_events import Events, messages_of
from sessions.web.api.endpoints import sent
from sessions.web.chats import Chats
from sessions.web.front_ends import (
    check_message,
    decide,
    exchanges,
    file_of,
    say,
    stored_file,
    turn_named,
)
from sessions.web.models import Decision, File, Part, Text
from sessions.web.pieces import (
    Over,
    Pieces,
    ReplyVoid,
    Used,
    Waiting,
    pieces_of,
)
from sessions.web.problems import NOT_FOUND, Refused
from sessions.web.service import Service
from sessions.web.streams import EventStream

VERSION = "1.0"
LONGEST_ID = 200
APPROVAL = "tool_approval"
"""The reason of an interrupt: a tool call waits for the user."""
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
