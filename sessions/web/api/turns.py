"""Endpoints of turns: begin, follow, stop, ask again, go on, decide."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sessions import Session, Turn
from sessions.web import shown
from sessions.web.access import owner_of
from sessions.web.api.endpoints import Endpoint, query
from sessions.web.models import Begun, Decided, Decision, Empty, Message, Regeneration, TurnNow
from sessions.web.problems import Refused
from sessions.web.service import Service
from sessions.web.streams import EventStream, events_of

NEWEST = "newest"


class Turns:
    """What is asked of a turn."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def endpoints(self) -> list[Endpoint]:
        here = "/api/sessions/{id}"
        turn = f"{here}/turns/{{turn}}"
        return [
            Endpoint("POST", f"{here}/turns", self.begin, "Say something", Begun, Message, 202),
            Endpoint("POST", f"{here}/regenerate", self.regenerate, "Another answer", Begun, Regeneration, 202),
            Endpoint("POST", f"{here}/resume", self.resume, "Go on with a turn that broke off", Begun, Empty, 202),
            Endpoint(
                "GET", f"{turn}/events", self.events, "What happens in a turn, as server-sent events",
                query={"after": "the id of the last event seen, in place of the header Last-Event-ID"},
                media_type="text/event-stream",
            ),
            Endpoint("POST", f"{turn}/stop", self.stop, "Stop it, and keep what there is", TurnNow, Empty),
            Endpoint("POST", f"{here}/decisions", self.decide, "Approve or deny a tool call", Decided, Decision),
        ]  # fmt: skip

    async def _open(self, request: Request) -> Session:
        return await self._service.chats(request).open(request.path_params["id"])

    async def begin(self, request: Request, asked: Message) -> Begun:
        chats, session = self._service.chats(request), await self._open(request)
        if asked.edit is not None:
            turn = await chats.edit(session, asked.edit, asked.content, asked.id)
        else:
            turn = await chats.begin(session, asked.content, asked.id, asked.while_running)
        return _begun(turn)

    async def regenerate(self, request: Request, asked: Regeneration) -> Begun:
        return _begun(await self._service.chats(request).regenerate(await self._open(request), asked.turn))

    async def resume(self, request: Request, asked: Empty) -> Begun:
        turn = await self._service.chats(request).resume(await self._open(request))
        if turn is None:
            raise Refused(409, "nothing has been said in this conversation yet")
        return _begun(turn)

    async def events(self, request: Request) -> Response:
        turn = await self._turn(request)
        if turn is None:
            return Response(status_code=204)
        after = request.headers.get("last-event-id") or query(request, "after")
        return EventStream(events_of(turn, after), self._service.counts.stream(owner_of(request)))

    async def stop(self, request: Request, asked: Empty) -> TurnNow:
        turn = await self._turn(request)
        if turn is None:
            raise Refused(404, "there is no such turn")
        await turn.stop()
        return TurnNow(turn=turn.id, state=turn.state)

    async def decide(self, request: Request, asked: Decision) -> Decided:
        chats, session = self._service.chats(request), await self._open(request)
        await chats.decide(session, asked.call_id, asked.approve, asked.input, asked.reason)
        turn = await chats.manager.turn(session.id)
        return Decided(pending=shown.calls(session.pending), turn=None if turn is None else turn.id)

    async def _turn(self, request: Request) -> Turn | None:
        """The turn that is named; `None` where the newest one is asked for and there is none."""
        id, named = request.path_params["id"], request.path_params["turn"]
        chats = self._service.chats(request)
        turn = await chats.turn(id, None if named == NEWEST else named)
        if turn is None and named != NEWEST:
            raise Refused(404, "there is no such turn")
        return turn


def _begun(turn: Turn) -> Begun:
    events = f"api/sessions/{turn.session_id}/turns/{turn.id}/events"
    return Begun(session=turn.session_id, turn=turn.id, state=turn.state, events=events)
