"""A chat back end with Starlette: turns outlive their request, and any worker reads, stops and approves them.

    uvicorn --app-dir examples chat_starlette:app --workers 2

A page shows `GET /sessions/ID`, then follows `GET /sessions/ID/events` with an EventSource until `ended`; reloaded in
the middle of an answer, it gets all there is of it first. Several machines share a `postgresql://…` in place of the
file. Needs `pip install starlette sse-starlette`, which ends open streams when the server is told to end.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessions import OwnedManager, Session, SessionManager, SessionNotFound, SessionsError, tool
from sessions.simulator import Latency, client


@tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pays an amount in euros."""
    return f"Paid {amount} euros."


# A simulated Claude that takes its time: with client=None it is Claude, and needs ANTHROPIC_API_KEY.
manager = SessionManager("sqlite:///chat.db", client=client(latency=Latency(0, 0.2, 0.05)), tools=[pay], recover=True)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with manager:
        yield
        await manager.drain(10)  # turns that take longer are finished by another worker


def mine(request: Request) -> OwnedManager:  # the proxy in front knows who it is, and sets this header
    return manager.for_owner(request.headers.get("x-forwarded-user", ""))


async def opened(request: Request) -> Session:
    return await mine(request).open(request.path_params["id"], tools=[pay])


async def create(request: Request) -> Response:
    return JSONResponse({"id": (await mine(request).create(model="claude-opus-5", max_tokens=4096, tools=[pay])).id})


async def listed(request: Request) -> Response:
    rows = await mine(request).list(search=request.query_params.get("search"))
    return JSONResponse([{"id": row.id, "title": row.title, "state": row.state, "cost": str(row.cost)} for row in rows])


async def show(request: Request) -> Response:
    session = await opened(request)
    return JSONResponse({"entries": [*map(asdict, session.entries)], "pending": [*map(asdict, session.pending)]})


async def begin(request: Request) -> Response:
    session, words = await opened(request), await request.json()
    turn = await session.begin(words["text"], idempotency_key=words.get("key"), while_running="interrupt")
    return JSONResponse({"turn": turn.id})


async def events(request: Request) -> Response:
    turn, seen = await mine(request).turn(request.path_params["id"]), request.headers.get("last-event-id")
    told = ({"id": event.id, "data": event.to_json()} async for event in turn.follow(seen)) if turn else iter(())
    return EventSourceResponse(told)


async def stop(request: Request) -> Response:
    if turn := await mine(request).turn(request.path_params["id"]):
        await turn.stop()
    return Response(status_code=204)


async def decide(request: Request) -> Response:
    session, said = await opened(request), await request.json()
    await (session.approve(said["call"]) if said["approve"] else session.deny(said["call"], said.get("reason")))
    return Response(status_code=204)


async def problem(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, SessionNotFound) else 409)


routes = [
    Route("/sessions", create, methods=["POST"]),
    Route("/sessions", listed),
    Route("/sessions/{id}", show),
    Route("/sessions/{id}/turns", begin, methods=["POST"]),
    Route("/sessions/{id}/events", events),
    Route("/sessions/{id}/stop", stop, methods=["POST"]),
    Route("/sessions/{id}/decisions", decide, methods=["POST"]),
]
app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={SessionsError: problem})
