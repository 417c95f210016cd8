"""The UI message stream of the AI SDK (`useChat`, assistant-ui and others): the wire of its versions 5 to 7.

    POST /ai-sdk/{agent}                    the newest message, or decisions; answered by the turn's stream
    GET  /ai-sdk/{agent}/{chat}/stream      what runs, from its beginning; 204 where nothing does
    POST /ai-sdk/{agent}/{chat}/stop        `stop()` of the page only closes its own connection
    GET  /ai-sdk/{agent}/{chat}/messages    what is stored, for `useChat({messages})`

A page sends all it has; what is taken is described in `front_ends`. An answer, with its tools, is one message, whose id
is the turn's. `reset-step` is known from version 7 on, approvals from version 6.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessions import Session, Turn
from sessions.web.access import owner_of
from sessions.web.api.endpoints import sent
from sessions.web.chats import Chats
from sessions.web.front_ends import (
    UNDER_WAY,
    again,
    check_message,
    decide,
    file_of,
    say,
    stored_file,
    under_way,
)
from sessions.web.models import Decision, Name, Part, Text
from sessions.web.problems import NOT_FOUND, Refused
from sessions.web.service import Service
from sessions.web.streams import EventStream
from sessions.web.ui_messages import messages_of, stream_of

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}


# -- what is sent --


class Message(BaseModel):
    """A message of the page's, as far as it is looked at."""

    id: Name
    role: str
    parts: Annotated[list[dict[str, Any]], Field(max_length=10_000)]


class Asked(BaseModel):
    """What `DefaultChatTransport` sends, as far as it is looked at. `message`: where a page sends its newest only."""

    id: Name
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: Name | None = None  # noqa: N815 - the wire's name
    messages: list[Any] = []
    message: Any = None

    def newest(self) -> Message:
        """The message that is meant: the newest one, or the answer whose calls are decided on."""
        known = self.messages or [self.message]
        answers = [one for one in known if isinstance(one, dict) and one.get("role") == "assistant"]
        named = (one for one in reversed(answers) if self.messageId is not None and one.get("id") == self.messageId)
        return Message.model_validate(next(named, known[-1]))

    def words(self) -> str | None:
        """The id of the user's newest words."""
        known = (one for one in reversed(self.messages) if isinstance(one, dict) and one.get("role") == "user")
        id = next(known, {}).get("id")
        return id if isinstance(id, str) else None


def content_of(message: Message, session: Session | None) -> list[Part]:
    """The words and files of a message; the files of a stored one may come as our own URLs."""
    content: list[Part] = []
    for part in message.parts:
        if part.get("type") == "text" and part.get("text"):
            content.append(Text.model_validate({"type": "text", "text": part["text"]}))
        elif part.get("type") == "file":
            url = str(part.get("url") or "")
            stored = None if session is None else stored_file(session, url)
            kind = part.get("mediaType")
            content.append(stored or file_of(url, kind if isinstance(kind, str) else None, part.get("filename")))
    if not content:
        raise Refused(422, "the newest message has no words and no files")
    return content


def decisions_of(message: Message) -> list[Decision]:
    """What the user has decided on the calls of an answer."""
    found: list[Decision] = []
    for part in message.parts:
        approval = part.get("approval")
        if part.get("state") == "approval-responded" and isinstance(approval, dict):
            approve = approval.get("approved")
            reason = approval.get("reason") or None if approve is False else None  # a page may give one for a yes too
            found.append(Decision.model_validate({"call_id": approval.get("id"), "approve": approve, "reason": reason}))
    return found


# -- routes --


class AiSdk:
    """What is asked by pages that speak this protocol."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def routes(self) -> list[Route]:
        here = "/ai-sdk/{agent}"
        return [
            Route(here, self.send, methods=["POST"]),
            Route(f"{here}/{{chat}}/stream", self.resume, methods=["GET"]),
            Route(f"{here}/{{chat}}/stop", self.stop, methods=["POST"]),
            Route(f"{here}/{{chat}}/messages", self.messages, methods=["GET"]),
        ]

    def _chats(self, request: Request) -> Chats:
        """What this owner can do. Raises `Refused` where there is no such agent."""
        chats = self._service.chats(request)
        chats.agent(request.path_params["agent"])
        return chats

    async def _known(self, request: Request) -> tuple[Chats, Session | None]:
        chats = self._chats(request)
        return chats, await chats.known(request.path_params["chat"])

    async def send(self, request: Request) -> Response:
        chats, asked = self._chats(request), await sent(request, Asked)
        assert isinstance(asked, Asked)
        if asked.trigger == "regenerate-message":
            turn = await again(chats, await _required(chats, asked.id), asked.messageId, asked.words())
            return self._stream(request, turn)
        newest = asked.newest()
        if newest.role == "user":
            session = await chats.known(asked.id)
            content = content_of(newest, session)
            if session is None:
                check_message(newest.id, content, self._service.counts.limits)
                session = await chats.opened(asked.id, chats.agent(request.path_params["agent"]))
            return self._stream(request, await say(chats, session, newest.id, content))
        decisions = decisions_of(newest)
        if newest.role != "assistant" or not decisions:
            raise Refused(422, "the newest message must be the user's, or have decisions on calls that wait for them")
        turn, known = await decide(chats, await _required(chats, asked.id), decisions)
        return self._stream(request, turn, known)

    async def resume(self, request: Request) -> Response:
        chats, session = await self._known(request)
        turn = None if session is None else await under_way(chats, session)
        if turn is None or turn.state not in UNDER_WAY:
            return Response(status_code=204)
        return self._stream(request, turn)

    async def stop(self, request: Request) -> Response:
        chats, session = await self._known(request)
        turn = None if session is None else await under_way(chats, session)
        if turn is not None:
            await turn.stop()
        return JSONResponse({"success": True})

    async def messages(self, request: Request) -> Response:
        _, session = await self._known(request)
        root = str(request.scope.get("root_path", ""))
        found = [] if session is None else await messages_of(session, root)
        return JSONResponse(found)

    def _stream(self, request: Request, turn: Turn, known: str | None = None) -> Response:
        return EventStream(stream_of(turn, known), self._service.counts.stream(owner_of(request)), HEADERS)


async def _required(chats: Chats, name: str) -> Session:
    session = await chats.known(name)
    if session is None:
        raise Refused(404, NOT_FOUND)
    return session
