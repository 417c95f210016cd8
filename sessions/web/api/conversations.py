"""Endpoints of conversations: list, make, show, name, delete, branch."""

from __future__ import annotations

from typing import Any, get_args

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from sessions import Conflict, Cost, Session
from sessions.web import shown
from sessions.web.access import owner_of
from sessions.web.api.branches import branches_of
from sessions.web.api.endpoints import Endpoint, number, query
from sessions.web.chats import Chats
from sessions.web.files import TYPES, bytes_of_block
from sessions.web.markdown import RENDERING
from sessions.web.models import (
    AgentInfo,
    Config,
    ForkPoint,
    NewSession,
    RewindPoint,
    SessionChange,
    SessionItem,
    SessionPage,
    SessionState,
    ShownCost,
    ShownSession,
)
from sessions.web.problems import Refused
from sessions.web.service import Service

PAGE = 50
MOST = 200
ENTRIES = 400
"""Entries of a conversation that are shown without being asked for."""
MOST_ENTRIES = 100_000


class Conversations:
    """What is asked of conversations as a whole."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def endpoints(self) -> list[Endpoint]:
        here = "/api/sessions/{id}"
        return [
            Endpoint("GET", "/api/config", self.config, "Who asks, and which agents there are", Config),
            Endpoint(
                "GET", "/api/sessions", self.listed, "Conversations, newest first", SessionPage,
                query={
                    "search": "words in its title or its history", "limit": f"at most {MOST}, usually {PAGE}",
                    "before": "the cursor of the page before", "state": "idle, running, waiting or interrupted",
                },
            ),
            Endpoint("POST", "/api/sessions", self.create, "A new conversation", SessionItem, NewSession, 201),
            Endpoint(
                "GET", here, self.show, "A conversation with its entries", ShownSession,
                query={"entries": f"how many of the newest, usually {ENTRIES}"},
            ),
            Endpoint("PATCH", here, self.change, "Give it a title", SessionItem, SessionChange),
            Endpoint("DELETE", here, self.delete, "Delete it for good", status=204),
            Endpoint("POST", f"{here}/fork", self.fork, "A branch of it", SessionItem, ForkPoint, 201),
            Endpoint("POST", f"{here}/rewind", self.rewind, "Go back to an entry", SessionItem, RewindPoint),
            Endpoint("GET", f"{here}/cost", self.cost, "What it has cost, with its branches", ShownCost),
            Endpoint(
                "GET", f"{here}/files/{{entry}}/{{place}}", self.file, "The bytes of an image or a document",
                media_type="*/*",
            ),
        ]  # fmt: skip

    def _chats(self, request: Request) -> Chats:
        return self._service.chats(request)

    async def _read(self, request: Request) -> Session:
        return await self._chats(request).read(request.path_params["id"])

    async def config(self, request: Request) -> Config:
        owner = owner_of(request)
        return Config(
            owner=owner,
            operator=self._service.is_operator(owner),
            simulated=self._service.simulated,
            agents=[
                AgentInfo(name=agent.name, description=agent.description, model=agent.model)
                for agent in self._service.agents
            ],
            file_types=list(TYPES),
            body_bytes=self._service.counts.limits.body_bytes,
        )

    async def listed(self, request: Request) -> SessionPage:
        limit = number(request, "limit", PAGE, MOST)
        state: Any = query(request, "state")
        if state is not None and state not in get_args(SessionState):
            raise Refused(422, "state must be idle, running, waiting or interrupted")
        found = await self._chats(request).manager.list(
            limit=limit + 1, before=query(request, "before"), search=query(request, "search"), state=state
        )
        rows = [shown.item(info) for info in found[:limit]]
        return SessionPage(sessions=rows, next=rows[-1].id if len(found) > limit else None)

    async def create(self, request: Request, asked: NewSession) -> SessionItem:
        chats = self._chats(request)
        session = await chats.create(chats.agent(asked.agent), asked.title, asked.key)
        return await self._item(session)

    async def show(self, request: Request) -> ShownSession:
        most = number(request, "entries", ENTRIES, MOST_ENTRIES)
        session = await self._read(request)
        entries, calls, turns = session.entries, await session.calls(), await session.turns()
        ledger = {call.id: call for call in calls}
        return ShownSession(
            session=shown.item_of(session, turns, Cost.of(calls)),
            # In a thread: a long conversation takes a second to be rendered, and others wait for this loop.
            entries=await to_thread.run_sync(
                lambda: [shown.entry(one, session.id) for one in entries[-most:]], limiter=RENDERING
            ),
            earlier=max(0, len(entries) - most),
            turns=[shown.turn(info, ledger) for info in turns],
            pending=shown.calls(session.pending),
            branches=await branches_of(self._chats(request), session, [entry.id for entry in entries]),
        )

    async def change(self, request: Request, asked: SessionChange) -> SessionItem:
        session = await self._read(request)
        await session.update(title=asked.title)
        return await self._item(session)

    async def delete(self, request: Request) -> None:
        await self._read(request)
        await self._chats(request).manager.delete(request.path_params["id"])

    async def fork(self, request: Request, asked: ForkPoint) -> SessionItem:
        session = await self._read(request)
        return await self._item(await session.fork(asked.at))

    async def rewind(self, request: Request, asked: RewindPoint) -> SessionItem:
        session = await self._read(request)
        if session.state == "running":
            raise Refused(409, "an answer is under way: stop it first")
        if asked.to is not None and all(entry.id != asked.to for entry in session.entries):
            raise Conflict("this entry is not in the conversation any more: load it again")
        await session.rewind(asked.to, expected=session.head)
        return await self._item(session)

    async def cost(self, request: Request) -> ShownCost:
        session = await self._read(request)
        return shown.cost(await session.cost(branches=True))

    async def file(self, request: Request) -> Response:
        session, place = await self._read(request), request.path_params["place"]
        entry = next((one for one in session.entries if one.id == request.path_params["entry"]), None)
        if entry is None or not place.isdecimal() or not int(place[:9]) < len(entry.content):
            raise Refused(404, "there is no such file")
        found = bytes_of_block(entry.content[int(place)])
        if found is None:
            raise Refused(404, "there is no such file")
        data, media_type = found
        headers = {
            "Cache-Control": "private, max-age=86400",
            "Content-Disposition": "attachment",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        return Response(data, media_type=media_type, headers=headers)

    async def _item(self, session: Session) -> SessionItem:
        return shown.item_of(session, await session.turns(), await session.cost())
